package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// What goes along on a redirect is what was asked for and who is asking: no token, no cookie, no referrer.
func TestRedirectElsewhere(t *testing.T) {
	blob := []byte("blob content")
	store := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob) })
	realm := tokenService(t, "")
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,scope=%q`, realm.URL, appScope))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Set-Cookie", "session=1")
		http.Redirect(w, r, store.URL+"/bucket/object?signature=s3cret", http.StatusTemporaryRedirect)
	})
	c := configFor(reg)
	c.Realms = []string{realm.URL}
	content, err := readBlob(t, open(t, Options{}, c), blob)
	if err != nil || !bytes.Equal(content, blob) {
		t.Fatalf("got %q, %v, want %q", content, err, blob)
	}
	if len(store.requests) != 1 {
		t.Fatalf("got %d requests, want 1", len(store.requests))
	}
	got := store.requests[0].Header
	want := http.Header{"Accept": {"*/*"}, "Accept-Encoding": {"identity"}, "User-Agent": {"tidewaiter/test"}}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
}

// A redirect within the API keeps the token; one that has left it does not bring the token back.
func TestRedirectAndTokens(t *testing.T) {
	tests := map[string]struct {
		hops func(reg, other string) map[string]string
		want []string // the Authorization of each request the registry gets after the first two
	}{
		"within the API": {
			func(reg, _ string) map[string]string {
				return map[string]string{appManifest + "latest": "/v2/moved/app/manifests/latest"}
			},
			[]string{"Bearer token for " + appScope},
		},
		"out of the API": {
			func(reg, _ string) map[string]string {
				return map[string]string{appManifest + "latest": "/files/1"}
			},
			[]string{""},
		},
		"away and back": {
			func(reg, other string) map[string]string {
				return map[string]string{appManifest + "latest": other + "/back", "/back": reg + "/v2/moved/app/manifests/latest"}
			},
			[]string{""},
		},
		"out of the API by encoded dots": {
			func(reg, _ string) map[string]string {
				return map[string]string{appManifest + "latest": "/v2/%2e%2e/files"}
			},
			[]string{""},
		},
		"to the mask of a realm": {
			func(reg, _ string) map[string]string {
				return map[string]string{appManifest + "latest": "/.tidewaiter-realm/http/127.0.0.1/token"}
			},
			[]string{""},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			realm := tokenService(t, "")
			var hops map[string]string
			reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "" && r.URL.Path == appManifest+"latest" {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,scope=%q`, realm.URL, appScope))
					w.WriteHeader(http.StatusUnauthorized)
				} else if to := hops[r.URL.Path]; to != "" {
					w.Header().Set("Location", to)
					w.WriteHeader(http.StatusFound)
				} else {
					writeManifest(w, image)
				}
			})
			other := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", hops[r.URL.Path])
				w.WriteHeader(http.StatusFound)
			})
			hops = tc.hops(reg.URL, other.URL)
			c := configFor(reg)
			c.Realms = []string{realm.URL}
			if _, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(reg.headers("Authorization")[2:], tc.want); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
			for _, got := range other.headers("Authorization") {
				if got != "" {
					t.Errorf("got %q at another host, want no token", got)
				}
			}
		})
	}
}

func TestRedirectTarget(t *testing.T) {
	tests := map[string]struct{ from, location, want string }{
		"elsewhere":            {"https://a.test/v2/x", "https://b.test/y?z=1", "https://b.test/y?z=1"},
		"relative":             {"https://a.test/v2/x/y", "../z", "https://a.test/v2/z"},
		"up to https":          {"http://a.test/x", "https://a.test/x", "https://a.test/x"},
		"plain all the way":    {"http://a.test/x", "http://b.test/x", "http://b.test/x"},
		"without its fragment": {"https://a.test/x", "https://b.test/y#z", "https://b.test/y"},
		"down to http":         {"https://a.test/x", "http://a.test/x", ""},
		"with credentials":     {"https://a.test/x", "https://u:p@b.test/x", ""},
		"to a file":            {"https://a.test/x", "file:///etc/passwd", ""},
		"to another protocol":  {"https://a.test/x", "gopher://b.test/x", ""},
		"to no host":           {"https://a.test/x", "https:///x", ""},
		"to a port alone":      {"https://a.test/x", "https://:80/x", ""},
		"to nowhere":           {"https://a.test/x", "", ""},
		"to no URL":            {"https://a.test/x", "https://%zz", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := redirectTarget(parsed(t, tc.from), tc.location)
			if tc.want == "" {
				if !errors.Is(err, errLeak) {
					t.Errorf("got %v, %v, want errLeak", got, err)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Errorf("got %v, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// The hops of other hosts count as well.
func TestRedirectsElsewhereEnd(t *testing.T) {
	store := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) })
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, store.URL, http.StatusFound) })
	_, err := open(t, Options{}, configFor(reg)).Manifest(t.Context(), app, "latest")
	if !errors.Is(err, errLeak) || !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("got %v, want errLeak and %v", err, oci.ErrUnavailable)
	}
	if got := len(store.asked()); got != maxRedirects {
		t.Errorf("got %d requests elsewhere, want %d", got, maxRedirects)
	}
}

func TestRedirectsEnd(t *testing.T) {
	tests := map[string]struct {
		hops int
		want error
	}{
		"as many as are followed": {maxRedirects, nil},
		"one more":                {maxRedirects + 1, oci.ErrUnavailable},
		"without end":             {1 << 30, oci.ErrUnavailable},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var hops atomic.Int32
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if n := hops.Add(1); int(n) <= tc.hops {
					http.Redirect(w, r, fmt.Sprintf("/v2/hop/%d", n), http.StatusFound)
					return
				}
				writeManifest(w, image)
			})
			_, err := open(t, Options{}, configFor(s)).Manifest(t.Context(), app, "latest")
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if got, most := len(s.asked()), maxRedirects+1; got > most {
				t.Errorf("got %d requests, want at most %d", got, most)
			}
		})
	}
}
