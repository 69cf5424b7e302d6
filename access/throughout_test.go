package access_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/oci"
)

func TestRightsThroughoutAPattern(t *testing.T) {
	p := newPlace(t, func(p *place, o *access.Options) {
		o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "sam", "pw")+hash(t, "kim", "pw")+hash(t, "root", "pw"))
		o.Anonymous = []access.Rule{rule("pull", "**")}
		o.Grants = []access.Grant{
			grant("user:sam", "review", "docker.io/**", "apps/web"), grant("user:sam", "review", "apps/api"),
			grant("user:kim", "pull,push", "**"), grant("user:root", "admin", "**"),
		}
	})
	for _, tt := range []struct {
		law, user string
		action    access.Action
		scopes    []string
		want      oci.Code // empty for allowed
	}{
		{"one repository", "sam", access.Review, []string{"apps/web"}, ""},
		{"a pattern within a grant's", "sam", access.Review, []string{"docker.io/library/*"}, ""},
		{"several, each by a grant of its own", "sam", access.Review, []string{"docker.io/**", "apps/web", "apps/api"}, ""},
		{"none beyond what is granted", "sam", access.Review, []string{"docker.io/**", "apps/*"}, oci.CodeDenied},
		{"everywhere is everywhere", "sam", access.Review, []string{"**"}, oci.CodeDenied},
		{"admins may everywhere", "root", access.Review, []string{"**"}, ""},
		{"another action gives nothing", "kim", access.Review, []string{"apps/web"}, oci.CodeDenied},
		{"what everybody may", "kim", access.Pull, []string{"quay.io/**"}, ""},
		{"nowhere is nothing", "root", access.Review, nil, oci.CodeDenied},
		{"nobody is asked who it is", "", access.Review, []string{"apps/web"}, oci.CodeUnauthorized},
	} {
		t.Run(tt.law, func(t *testing.T) {
			caller, err := p.Identify(asking(func(r *http.Request) {
				if tt.user != "" {
					r.SetBasicAuth(tt.user, "pw")
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			var scopes []oci.Pattern
			may := len(tt.scopes) > 0
			for _, s := range tt.scopes {
				scope, err := oci.ParseFullPattern(s)
				if err != nil {
					t.Fatal(err)
				}
				scopes = append(scopes, scope)
				may = may && p.MayThroughout(caller, tt.action, scope)
			}
			p.ledger.take()
			err = p.AllowThroughout(t.Context(), caller, tt.action, scopes)
			var got oci.Code
			if e, ok := errors.AsType[*oci.Error](err); ok {
				got = e.Code
			}
			if diff := cmp.Diff(got, tt.want); diff != "" || may != (tt.want == "") {
				t.Errorf("got %v, may %t, want %q", err, may, tt.want)
			}
			if taken := p.ledger.take(); len(taken) != 1 {
				t.Errorf("%d attempts are on record, want 1", len(taken))
			}
		})
	}
	t.Run("somewhere is where one is granted something", func(t *testing.T) {
		for user, want := range map[string]oci.Code{"sam": "", "root": "", "kim": oci.CodeDenied, "": oci.CodeUnauthorized} {
			caller, err := p.Identify(asking(func(r *http.Request) {
				if user != "" {
					r.SetBasicAuth(user, "pw")
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			err = p.AllowSomewhere(t.Context(), caller, access.Review)
			if e, _ := errors.AsType[*oci.Error](err); want == "" && err != nil || want != "" && (e == nil || e.Code != want) {
				t.Errorf("%q: got %v, want %q", user, err, want)
			}
			if err := p.AllowSomewhere(t.Context(), caller, access.Pull); err != nil {
				t.Errorf("%q may not pull anywhere: %v", user, err)
			}
		}
		if err := p.AllowSomewhere(t.Context(), access.Caller{}, access.Pull); err == nil {
			t.Error("the zero caller may")
		}
	})
	t.Run("what cannot be recorded is not done", func(t *testing.T) {
		caller, err := p.Identify(asking(func(r *http.Request) { r.SetBasicAuth("root", "pw") }))
		if err != nil {
			t.Fatal(err)
		}
		scope, err := oci.ParsePattern("**")
		if err != nil {
			t.Fatal(err)
		}
		p.ledger.err = errors.New("the disk is full")
		if err := p.AllowThroughout(t.Context(), caller, access.Review, []oci.Pattern{scope}); !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the zero caller may nothing", func(t *testing.T) {
		scope, err := oci.ParsePattern("a")
		if err != nil {
			t.Fatal(err)
		}
		if p.MayThroughout(access.Caller{}, access.Pull, scope) {
			t.Error("it may pull")
		}
	})
}
