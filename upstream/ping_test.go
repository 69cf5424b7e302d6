package upstream

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// status answers everything with a status and no challenge.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// passwordRegistry lets in who shows user and word.
func passwordRegistry(t *testing.T, user, word string) *server {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != word {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
}

// closed returns a URL nobody listens at.
func closed(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(nil)
	s.Close()
	return s.URL
}

func TestPing(t *testing.T) {
	const secret = "correct horse"
	trusted := newTLSServer(t)
	realm := tokenService(t, "")
	anonymous := bearerRegistry(t, realm.URL+"/token", appScope)
	strict := passwordRegistry(t, "robot", secret)
	nobody := closed(t)
	known := func(u, word string) Config {
		return Config{URL: u, Username: "robot", PasswordFile: password(t, word), UnsafePrivateAddresses: true}
	}
	tests := []struct {
		name   string
		config Config
		want   Pong
		err    string // part of Err
	}{
		{"an open registry", Config{URL: serve(t, status(200)).URL}, Pong{}, ""},
		{"one with a CA of its own", Config{URL: trusted.URL, CAFile: certificateFile(t, trusted.Certificate())}, Pong{}, ""},
		{"one that gives tokens to anybody", Config{URL: anonymous.URL, Realms: []string{realm.URL + "/token"}}, Pong{Shown: true}, ""},
		{"one that asks for a password", known(strict.URL, secret), Pong{Configured: true, Shown: true}, ""},
		{"credentials nobody asked for", known(serve(t, status(200)).URL, secret), Pong{Configured: true}, ""},
		{"a wrong password", known(strict.URL, "battery staple"), Pong{Configured: true, Shown: true, Fault: FaultUnauthorized}, "status 401"},
		{"no password", Config{URL: strict.URL}, Pong{Fault: FaultUnauthorized}, "user name"},
		{"a password file that is gone", Config{URL: strict.URL, Username: "robot", PasswordFile: t.TempDir() + "/none"}, Pong{Configured: true, Fault: FaultCredentials}, "none"},
		{"an empty password file", known(strict.URL, ""), Pong{Configured: true, Fault: FaultCredentials}, "is empty"},
		{"a realm nobody configured", Config{URL: anonymous.URL}, Pong{Fault: FaultRealm}, realm.URL},
		{"a realm that refuses", Config{URL: bearerRegistry(t, strict.URL, "").URL, Realms: []string{strict.URL}}, Pong{Fault: FaultUnauthorized}, "token service: it answers with status 401"},
		{"a realm that is down", Config{URL: bearerRegistry(t, nobody, "").URL, Realms: []string{nobody}}, Pong{Fault: FaultConnection}, "token service: dial"},
		{"a CA nobody trusts", Config{URL: trusted.URL}, Pong{Fault: FaultTLS}, "certificate"},
		{"TLS where there is none", Config{URL: strings.Replace(strict.URL, "http:", "https:", 1)}, Pong{Fault: FaultTLS}, ""},
		{"a port nobody listens at", Config{URL: nobody}, Pong{Fault: FaultConnection}, "connection refused"},
		{"a name nobody can have", Config{URL: "https://" + strings.Repeat("a", 64) + ".invalid"}, Pong{Fault: FaultName}, "no such host"}, // no resolver is asked
		{"a limit on our rate", Config{URL: serve(t, status(429)).URL}, Pong{Fault: FaultLimited}, "status 429"},
		{"something else than a registry", Config{URL: serve(t, status(404)).URL}, Pong{Fault: FaultAnswer}, "status 404"},
		{"a redirection", Config{URL: serve(t, status(302)).URL}, Pong{Fault: FaultAnswer}, "status 302"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.Host, tt.config.UnsafePrivateAddresses = app.Upstream, true
			got, err := open(t, Options{}, tt.config).Ping(t.Context(), app.Upstream)
			if err != nil || len(got) != 1 {
				t.Fatalf("got %v, %v", got, err)
			}
			tt.want.URL = tt.config.URL
			if diff := cmp.Diff(got[0], tt.want, cmpopts.IgnoreFields(Pong{}, "Date", "At", "Err")); diff != "" {
				t.Errorf("(-got +want):\n%s\n%v", diff, got[0].Err)
			}
			said := ""
			if got[0].Err != nil {
				said = got[0].Err.Error()
			}
			if !strings.Contains(said, tt.err) || (got[0].Fault == "") != (got[0].Err == nil) {
				t.Errorf("it says %q, want %q", said, tt.err)
			}
			if strings.Contains(said, secret) || strings.Contains(said, "battery staple") {
				t.Errorf("it tells the password: %q", said)
			}
		})
	}
}

func TestPingRefusesPrivateAddresses(t *testing.T) {
	rs := open(t, Options{}, Config{Host: app.Upstream, URL: serve(t, status(200)).URL})
	got, err := rs.Ping(t.Context(), app.Upstream)
	if err != nil || got[0].Fault != FaultPrivate {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPingTellsTheClocks(t *testing.T) {
	theirs, ours := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Date", theirs.Format(http.TimeFormat)) })
	got, err := open(t, Options{Now: func() time.Time { return ours }}, configFor(s)).Ping(t.Context(), app.Upstream)
	if err != nil || !got[0].Date.Equal(theirs) || !got[0].At.Equal(ours) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestPingRemembersNothing: pinging is neither what leaves an upstream alone, nor kept from it by that.
func TestPingRemembersNothing(t *testing.T) {
	down := true
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if down {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		writeManifest(w, image)
	})
	mirror := serve(t, status(200))
	c := configFor(s)
	c.Mirrors = []string{mirror.URL}
	rs := open(t, Options{}, c)
	for range breakerThreshold + 1 {
		got, err := rs.Ping(t.Context(), app.Upstream)
		if err != nil || len(got) != 2 || !got[0].Mirror || got[0].Fault != "" || got[1].Mirror || got[1].Fault != FaultAnswer {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	down = false
	if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
		t.Errorf("after pings that failed: %v", err)
	}
	if _, err := rs.Ping(t.Context(), "other.test"); err == nil {
		t.Error("an upstream nobody configured answers")
	}
}

func TestPingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	got, err := open(t, Options{}, configFor(s)).Ping(ctx, app.Upstream)
	if err != nil || got[0].Fault != FaultSlow {
		t.Errorf("got %+v, %v", got, err)
	}
}
