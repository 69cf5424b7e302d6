package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

const mirrored = "/v2/library/app/manifests/%s?ns=docker.io"

// mirrorCases adds to everyCase indexes whose children are of each case.
func mirrorCases(t *testing.T) (*fixture, map[string]gate.Candidate) {
	f, c := everyCase(t)
	c["multi"] = f.index("multi", "linux/amd64", c["clean"], "linux/arm64", c["kept"], "windows/amd64", c["denied"])
	c["multi-denied"] = f.index("multi-denied", "linux/amd64", c["clean"], "linux/arm64/v8", c["denied"])
	c["multi-slow"] = f.index("multi-slow", "linux/amd64", c["clean"], "linux/arm64", c["slow"])
	c["multi-fails"] = f.index("multi-fails", "linux/amd64", c["upstream-fails"])
	c["multi-sparse"] = f.index("multi-sparse", "linux/amd64", c["clean"], "linux/arm64", c["gone"])
	c["multi-silent"] = f.index("multi-silent", "linux/amd64", c["clean"], "", c["denied"])
	f.allow(c["multi"], c["multi-denied"], c["multi-slow"], c["multi-fails"], c["multi-sparse"], c["multi-silent"])
	return f, c
}

// TestMirrorTags follows what a mirror's client does: HEAD by tag, GET by the digest it was given, GET by tag. Whatever the refusal,
// HEAD succeeds, because any other answer sends the client to the origin, and both GETs carry the refusal.
func TestMirrorTags(t *testing.T) {
	f, c := mirrorCases(t)
	unavailable := func(message string) string { return errorBody("UNAVAILABLE", message) }
	for _, tt := range []struct {
		law, tag   string
		wantStatus int // of the GETs
		wantBody   string
	}{
		{"denied", "denied", 403, denialBody(c["denied"], "", "unsigned")},
		{"withdrawn", "withdrawn", 403, denialBody(c["withdrawn"], "", "unsigned")},
		{"not yet", "slow", 503, unavailable("judging in progress: reading layers")},
		{"could not judge", "upstream-fails", 503, unavailable("could not judge: recording")},
		{"upstream down", "down", 503, unavailable("the upstream does not answer")},
		{"upstream limits the rate", "limited", 503, errorBody("TOOMANYREQUESTS", "the upstream limits the rate of requests")},
		{"upstream refuses us", "unauthorized", 401, errorBody("UNAUTHORIZED", "the upstream refuses the credentials it was given")},
		{"a fault of ours", "moved", 500, errorBody("UNKNOWN", "internal error")},
		{"an index with a denied child", "multi-denied", 403, denialBody(c["denied"], "linux/arm64/v8: ", "unsigned")},
		{"an index with a denied child for any platform", "multi-silent", 403, denialBody(c["denied"], "a child for any platform: ", "unsigned")},
		{"an index with a child not judged yet", "multi-slow", 503, unavailable("judging in progress: reading layers")},
		{"an index with a child nobody can judge", "multi-fails", 503, unavailable("could not judge: recording")},
	} {
		t.Run(tt.law, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, _ := mirrorCases(t)
				head := f.do("HEAD", fmt.Sprintf(mirrored, tt.tag))
				want := map[string]string{
					"Content-Type": oci.MediaTypeImage, "Content-Length": fmt.Sprint(len(tt.wantBody)),
					"Docker-Content-Digest": oci.FromBytes([]byte(tt.wantBody)).String(), "Cache-Control": "no-store",
				}
				if diff := cmp.Diff(want, checkedHeaders(t, head)); diff != "" || head.Code != 200 || head.Body.Len() > 0 {
					t.Errorf("HEAD: %d %s\n(-want +got):\n%s", head.Code, head.Body, diff)
				}
				for _, reference := range []string{head.Header().Get("Docker-Content-Digest"), tt.tag} {
					get := f.do("GET", fmt.Sprintf(mirrored, reference))
					if get.Code != tt.wantStatus || get.Body.String() != tt.wantBody {
						t.Errorf("GET %s: got %d %s, want %d %s", reference, get.Code, get.Body, tt.wantStatus, tt.wantBody)
					}
					if got, want := get.Header().Get("Retry-After") != "", tt.wantStatus == 503; got != want {
						t.Errorf("GET %s: Retry-After is %q", reference, get.Header().Get("Retry-After"))
					}
				}
			})
		})
	}
	for _, tt := range []struct {
		law, tag string
	}{
		{"an allowed image", "clean"},
		{"an allowed index; its child for another platform is not asked about", "multi"},
		{"an allowed index that lists what its repository does not hold", "multi-sparse"},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f, c := mirrorCases(t)
			for _, method := range []string{"HEAD", "GET"} {
				w := f.do(method, fmt.Sprintf(mirrored, tt.tag))
				if diff := cmp.Diff(contentHeaders(f.manifests[c[tt.tag]]), checkedHeaders(t, w)); diff != "" || w.Code != 200 {
					t.Errorf("%s: %d\n(-want +got):\n%s", method, w.Code, diff)
				}
			}
		})
	}
	t.Run("a tag nobody has is not there", func(t *testing.T) {
		if w := f.do("HEAD", fmt.Sprintf(mirrored, "nothing")); w.Code != 404 {
			t.Errorf("got %d, want 404", w.Code)
		}
	})
	t.Run("an upstream nobody configured is denied by tombstone too", func(t *testing.T) {
		w := f.do("HEAD", "/v2/app/manifests/v1?ns=evil.example")
		body := errorBody("DENIED", "evil.example/app is not on the allowlist: its upstream is not configured")
		if got, want := w.Header().Get("Docker-Content-Digest"), oci.FromBytes([]byte(body)).String(); w.Code != 200 || got != want {
			t.Errorf("got %d %s, want 200 %s", w.Code, got, want)
		}
	})
}

func TestTombstonesAreForMirrorsByTagOnly(t *testing.T) {
	f, c := mirrorCases(t)
	actual := c["denied"].Digest.String()
	for law, target := range map[string]string{
		"by digest":                       fmt.Sprintf(mirrored, actual),
		"by tag, with the host in a path": "/v2/docker.io/library/app/manifests/denied",
		"by tag of the default upstream":  "/v2/library/app/manifests/denied",
	} {
		t.Run(law, func(t *testing.T) {
			w := f.do("HEAD", target)
			if got := w.Header().Get("Docker-Content-Digest"); w.Code != 200 || got != actual {
				t.Errorf("got %d %s, want the digest %s", w.Code, got, actual)
			}
		})
	}
	if f.proxy.tombstones.order.Len() != 0 {
		t.Error("a tombstone was set up")
	}
	t.Run("and an index asked for otherwise is served whatever its children", func(t *testing.T) {
		for _, target := range []string{"/v2/docker.io/library/app/manifests/multi-denied", fmt.Sprintf(mirrored, c["multi-denied"].Digest)} {
			if w := f.do("GET", target); w.Code != 200 {
				t.Errorf("%s: got %d, want 200", target, w.Code)
			}
		}
	})
}

func TestTombstoneDigestMeansNothingElsewhere(t *testing.T) {
	f, _ := mirrorCases(t)
	d := f.do("HEAD", fmt.Sprintf(mirrored, "denied")).Header().Get("Docker-Content-Digest")
	for law, target := range map[string]string{
		"in another repository": "/v2/library/other/manifests/" + d + "?ns=docker.io",
		"without ns":            "/v2/library/app/manifests/" + d,
		"as a blob":             "/v2/library/app/blobs/" + d + "?ns=docker.io",
	} {
		t.Run(law, func(t *testing.T) {
			w := f.do("GET", target)
			if w.Code == 200 || strings.Contains(w.Body.String(), "unsigned") {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
		})
	}
}

func TestNotYetEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := mirrorCases(t)
		d := f.do("HEAD", fmt.Sprintf(mirrored, "slow")).Header().Get("Docker-Content-Digest")
		delete(f.steps, c["slow"])
		f.allow(c["slow"])
		if w := f.do("GET", fmt.Sprintf(mirrored, d)); w.Code != http.StatusServiceUnavailable {
			t.Errorf("by the tombstone: got %d, want 503", w.Code)
		}
		if w := f.do("GET", fmt.Sprintf(mirrored, "slow")); w.Code != 200 || w.Body.String() != string(f.manifests[c["slow"]].Raw) {
			t.Errorf("by tag: got %d %s", w.Code, w.Body)
		}
		if w := f.do("HEAD", fmt.Sprintf(mirrored, "slow")); w.Header().Get("Docker-Content-Digest") != c["slow"].Digest.String() {
			t.Errorf("by tag: got %v", w.Header())
		}
	})
}

func TestHostileIndexStartsFewJudgings(t *testing.T) {
	f := newFixture(t)
	var children []any
	for i := range 500 {
		child := gate.Candidate{Repository: app, Digest: oci.FromBytes(fmt.Append(nil, i))}
		f.allow(child)
		children = append(children, "linux/amd64", child)
	}
	f.allow(f.index("many", children...))
	if w := f.do("HEAD", fmt.Sprintf(mirrored, "many")); w.Code != 200 {
		t.Fatalf("got %d", w.Code)
	}
	if len(f.started) != maxStartedChildren || len(f.judged) != 501 {
		t.Errorf("%d judgings started side by side, %d waited for; want %d and every one", len(f.started), len(f.judged), maxStartedChildren)
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	ts := newTombstones(3)
	digest := func(i int) oci.Digest { return oci.FromBytes([]byte{byte(i)}) }
	for i := range 3 {
		ts.put(app, digest(i), oci.ErrNotFound)
	}
	ts.put(app, digest(0), oci.ErrNotFound) // wanted again, so the oldest is 1
	ts.put(app, digest(3), oci.ErrNotFound)
	for i, want := range []bool{true, false, true, true} {
		if _, got := ts.find(app, digest(i)); got != want {
			t.Errorf("%d: got %t, want %t", i, got, want)
		}
	}
	if len(ts.byDigest) != 3 || ts.order.Len() != 3 {
		t.Errorf("%d and %d are kept, want 3", len(ts.byDigest), ts.order.Len())
	}
}
