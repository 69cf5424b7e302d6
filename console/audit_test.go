package console_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/console"
)

func TestAudit(t *testing.T) {
	for _, tt := range []struct {
		law, query string
		entries    int
		n          int
	}{
		{"the newest", "", 3, 50},
		{"as many as asked for", "?n=2", 3, 2}, // which the log counts
		{"what somebody did", "?caller=user:first", 1, 50},
		{"of a kind", "?event=access.refused", 3, 50},
		{"of another", "?event=waiver.granted", 0, 50},
		{"about a repository", "?repository=apps/web", 3, 50},
		{"about another, by somebody", "?repository=apps/api&caller=user:first", 0, 50},
	} {
		d := &diary{n: 3}
		got := getJSON[console.AuditPage](t, console.Options{Audit: d}, "/api/v1/audit"+tt.query)
		if len(got.Entries) != tt.entries || d.asked.N != tt.n || got.Verified != nil || got.Next != "17" {
			t.Errorf("%s: asked for %d, got %+v", tt.law, d.asked.N, got)
		}
	}
	t.Run("the place of the page before is handed on", func(t *testing.T) {
		d := &diary{}
		getJSON[console.AuditPage](t, console.Options{Audit: d}, "/api/v1/audit?before=123")
		if d.asked.Before != "123" {
			t.Errorf("got %q", d.asked.Before)
		}
	})
	t.Run("the whole is verified for whoever asks", func(t *testing.T) {
		got := getJSON[console.AuditPage](t, console.Options{Audit: &diary{n: 3}}, "/api/v1/audit?verify=true")
		if got.Verified == nil || !got.Verified.Whole || got.Verified.Records != 3 {
			t.Errorf("got %+v", got.Verified)
		}
	})
	for law, tt := range map[string]struct {
		query string
		err   error
		want  int
	}{
		"no number":                  {"?n=x", nil, 400},
		"too many":                   {"?n=501", nil, 400},
		"none at all":                {"?n=0", nil, 400},
		"neither true nor false":     {"?verify=perhaps", nil, 400},
		"a place that is none":       {"?before=x", audit.ErrPosition, 400},
		"a log that is not kept":     {"", audit.ErrNoFile, 404},
		"a file that is not to read": {"", errors.New("/var/log: denied"), 500},
	} {
		w := get(t, console.Options{Audit: &diary{err: tt.err}}, "/api/v1/audit"+tt.query)
		if w.Code != tt.want || strings.Contains(w.Body.String(), "/var") || !strings.Contains(w.Body.String(), `"error"`) {
			t.Errorf("%s: got %d %s, want %d", law, w.Code, w.Body, tt.want)
		}
	}
	if w := get(t, console.Options{}, "/api/v1/audit"); w.Code != http.StatusNotFound {
		t.Errorf("without a log: got %d", w.Code)
	}
}

func TestTheAuditLogIsForOperators(t *testing.T) {
	for _, path := range []string{"/api/v1/audit", "/audit"} {
		for user, want := range map[string]int{"root": 200, "sam": 403, "kim": 403, "": 401} {
			r := &roles{}
			w := send(newConsole(console.Options{Access: r, Operators: r, Audit: &diary{n: 1}}), user, "GET", path, "")
			if w.Code != want || strings.Contains(w.Body.String(), "192.0.2.1") != (want == 200) {
				t.Errorf("%q at %s: got %d %.200s, want %d", user, path, w.Code, w.Body, want)
			}
		}
	}
}

func TestPageOfTheAuditLog(t *testing.T) {
	body := get(t, console.Options{Audit: &diary{n: 3}}, "/audit?verify=true&event=access.refused").Body.String()
	for _, want := range []string{"access.refused", "192.0.2.1", "Whole", "3 records", "Those before", "Show all"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %q:\n%s", want, body)
		}
	}
	if strings.Contains(body, "<script>") {
		t.Errorf("what others wrote is not text: %s", body)
	}
}
