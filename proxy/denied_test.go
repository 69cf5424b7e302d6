package proxy

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
)

func TestWhoeverIsDeniedIsTold(t *testing.T) {
	f := newFixture(t)
	bad, good := f.image(app, "bad", "bad"), f.image(app, "good", "good")
	index := f.index("index", "linux/amd64", bad)
	f.deny(bad, "unsigned")
	f.allow(good, index)
	var got []string
	f.proxy.o.Denied = func(c gate.Candidate, by access.Caller) { got = append(got, by.Name+" "+c.String()) }
	once := []string{"anonymous " + bad.String()}
	for _, tt := range []struct {
		law, method, target string
		want                []string
	}{
		{"a GET by tag", http.MethodGet, "/v2/library/app/manifests/bad", once},
		{"a GET by digest", http.MethodGet, "/v2/library/app/manifests/" + bad.Digest.String(), once},
		{"a HEAD for a mirror, which is all it sends", http.MethodHead, "/v2/library/app/manifests/bad?ns=docker.io", once},
		{"the child of an index, for a mirror", http.MethodGet, "/v2/library/app/manifests/index?ns=docker.io", once},
		{"a HEAD that is answered", http.MethodHead, "/v2/library/app/manifests/bad", nil},
		{"what is allowed", http.MethodGet, "/v2/library/app/manifests/good", nil},
		{"what is not there", http.MethodGet, "/v2/library/app/manifests/none", nil},
		{"a repository that may not be asked for", http.MethodGet, "/v2/evil.example/app/manifests/v1", nil},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got = nil
			f.do(tt.method, tt.target)
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("-got +want:\n%s", diff)
			}
		})
	}
}
