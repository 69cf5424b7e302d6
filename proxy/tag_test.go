package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// tagged returns a fixture whose policy denies the tag "latest" of an allowed image, and warns of "old".
func tagged(t *testing.T) (*fixture, gate.Candidate) {
	f := newFixture(t)
	c := f.image(app, "latest", "fine")
	desc := f.manifests[c].Descriptor()
	signature := "sha256-" + strings.Repeat("a", 64) + ".sig"
	for _, tag := range []string{"1.27", "old", signature} {
		f.tags[app.String()+":"+tag] = desc
	}
	f.allow(c)
	reasons := []gate.Reason{{Rule: gate.RuleCEL, Message: "no-latest: pin a version"}}
	f.tagVerdicts = map[string]gate.Verdict{
		"latest": {Policy: "production", Reasons: reasons}, signature: {Policy: "production", Reasons: reasons},
		"old": {Policy: "production", Decision: gate.Allow, Warnings: reasons},
	}
	return f, c
}

// TestDeniedTags: whoever asks by a denied tag gets neither the image nor its digest, by which it could be had, and the image is not
// judged for it. By another tag or by digest the very same image is served.
func TestDeniedTags(t *testing.T) {
	const sentence = "production: no-latest: pin a version"
	direct := "/v2/docker.io/library/app/manifests/"
	for _, method := range []string{"HEAD", "GET"} {
		t.Run(method+" by the tag", func(t *testing.T) {
			f, _ := tagged(t)
			w := f.do(method, direct+"latest")
			if w.Code != 403 || w.Header().Get("Docker-Content-Digest") != "" || method == "GET" && !strings.Contains(w.Body.String(), sentence) {
				t.Errorf("got %d %v %s", w.Code, w.Header(), w.Body)
			}
			if len(f.judged)+len(f.started)+len(f.opened) > 0 {
				t.Errorf("judged %v, started %v, opened %v", f.judged, f.started, f.opened)
			}
		})
		t.Run(method+" by a tag that is warned of", func(t *testing.T) {
			f, c := tagged(t)
			w := f.do(method, direct+"old")
			if w.Code != 200 || w.Header().Get("Docker-Content-Digest") != c.Digest.String() || !strings.Contains(w.Header().Get("Warning"), sentence) {
				t.Errorf("got %d %v", w.Code, w.Header())
			}
		})
		t.Run(method+" by anything else", func(t *testing.T) {
			f, c := tagged(t)
			for _, reference := range []string{"1.27", c.Digest.String(), "sha256-" + strings.Repeat("a", 64) + ".sig"} {
				if w := f.do("GET", direct+reference); w.Code != 200 || w.Header().Get("Warning") != "" {
					t.Errorf("%s: got %d %v", reference, w.Code, w.Header())
				}
			}
		})
	}
	t.Run("a mirror's client is kept from the origin by a tombstone", func(t *testing.T) {
		f, c := tagged(t)
		head := f.do("HEAD", fmt.Sprintf(mirrored, "latest"))
		digest := head.Header().Get("Docker-Content-Digest")
		if head.Code != 200 || digest == c.Digest.String() || digest == "" {
			t.Errorf("HEAD: got %d %v", head.Code, head.Header())
		}
		for _, reference := range []string{digest, "latest"} {
			w := f.do("GET", fmt.Sprintf(mirrored, reference))
			if w.Code != 403 || !strings.Contains(w.Body.String(), sentence) || oci.FromBytes(w.Body.Bytes()).String() != digest {
				t.Errorf("GET %s: got %d %s", reference, w.Code, w.Body)
			}
		}
	})
	t.Run("both warnings are told", func(t *testing.T) {
		f, c := tagged(t)
		v := f.verdicts[c]
		v.Warnings = []gate.Reason{{Rule: gate.RuleSize, Message: "large"}}
		f.verdicts[c] = v
		w := f.do("GET", direct+"old")
		if got := w.Header().Get("Warning"); w.Code != 200 || !strings.Contains(got, sentence) || !strings.Contains(got, "production: large") {
			t.Errorf("got %d %q", w.Code, got)
		}
	})
}
