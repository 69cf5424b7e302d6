package access_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestWhoOperates(t *testing.T) {
	p, _ := tokenPlace(t, func(_ *place, o *access.Options) {
		o.Grants = append(o.Grants, grant("user:root", "admin", "**"), grant("user:team", "admin", "apps/**"), grant("group:sec", "review", "docker.io/**"))
	})
	narrow, err := p.Identify(bearer(p.token(t, basic("ci", "secret"), "repository:apps/web:pull")))
	if err != nil {
		t.Fatal(err)
	}
	for law, tt := range map[string]struct {
		caller            access.Caller
		operates, reviews bool
	}{
		"admin everywhere":        {access.Caller{Name: "user:root"}, true, true},
		"admin of some":           {access.Caller{Name: "user:team"}, false, true},
		"a reviewer":              {access.Caller{Name: "user:x", Groups: []string{"sec"}}, false, true},
		"who pushes":              {access.Caller{Name: "user:ci"}, false, false},
		"a token":                 {narrow, false, false},
		"somebody without grants": {access.Caller{Name: "user:y"}, false, false},
		"nobody":                  {access.Caller{}, false, false},
	} {
		if got := p.Operates(tt.caller); got != tt.operates {
			t.Errorf("%s: operates %t", law, got)
		}
		if got := p.Reviews(tt.caller); got != tt.reviews {
			t.Errorf("%s: reviews %t", law, got)
		}
	}
}

func TestOperatingIsOnRecord(t *testing.T) {
	p, _ := tokenPlace(t, func(_ *place, o *access.Options) { o.Grants = append(o.Grants, grant("user:root", "admin", "**")) })
	const doing = "redeliver"
	for _, tt := range []struct {
		caller string
		want   oci.Code // empty for none
		record access.Event
	}{
		{"user:root", "", access.EventAllowed},
		{"user:ci", oci.CodeDenied, access.EventRefused},
		{"anonymous", oci.CodeUnauthorized, access.EventChallenged},
	} {
		err := p.Operate(t.Context(), access.Caller{Name: tt.caller}, doing)
		if e, _ := errors.AsType[*oci.Error](err); (err != nil) != (tt.want != "") || err != nil && e.Code != tt.want {
			t.Errorf("%s: got %v, want %v", tt.caller, err, tt.want)
		}
		if diff := cmp.Diff(p.ledger.take(), []access.Attempt{{Event: tt.record, Caller: tt.caller, Action: access.Admin, Reason: doing}}); diff != "" {
			t.Errorf("%s: on record (-got +want):\n%s", tt.caller, diff)
		}
	}
	p.ledger.err = errors.New("no space left")
	if err := p.Operate(t.Context(), access.Caller{Name: "user:root"}, doing); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("what cannot be put on record: got %v", err)
	}
}
