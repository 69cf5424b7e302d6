package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/trail"
)

// notes are the Trail and LastGood of the tests. What a tag stood for before is what it was seen to, or what a test says.
type notes struct {
	resolved, pulled []string
	earlier          map[string][]oci.Digest // by "repository:tag"
	fails            error
}

func (n *notes) Resolved(_ context.Context, repo oci.Repository, tag string, d oci.Digest, by trail.Client) {
	n.resolved = append(n.resolved, fmt.Sprintf("%s:%s is %s by %s at %s", repo, tag, d, by.Name, by.Address))
}

func (n *notes) Pulled(c gate.Candidate, by trail.Client) {
	n.pulled = append(n.pulled, fmt.Sprintf("%s by %s with %s", c, by.Name, by.Agent))
}

func (n *notes) Serves(repo oci.Repository) bool { return n.earlier != nil && repo != other }

func (n *notes) Earlier(_ context.Context, repo oci.Repository, tag string, now oci.Digest) ([]oci.Digest, error) {
	return n.earlier[repo.String()+":"+tag], n.fails
}

func withNotes(f *fixture) *notes {
	n := &notes{}
	f.proxy.o.Trail, f.proxy.o.LastGood = n, n
	return n
}

func TestTheTrailIsTold(t *testing.T) {
	f := newFixture(t)
	d, n := withDock(f), withNotes(f)
	upstreams, old, late := f.image(app, "v1", "app"), f.image(app, "old", "old"), f.image(app, "late", "late")
	f.stale[app.String()+":old"] = true
	hosts := d.pushed(f, web, "v1", "web")
	d.serve(web, "v1")
	next := d.pushed(f, web, "v1", "next")
	f.allow(upstreams, old, hosts)
	f.deny(late, "unsigned")
	signatures := d.pushed(f, web, "sha256-"+hosts.Digest.Encoded()+".sig", "signatures")
	f.allow(signatures)
	for _, tt := range []struct {
		law, who, method, target string
		header                   []string
		resolved, pulled         []string
	}{
		{"of what is served, and of the tag", "reader", "GET", "/v2/docker.io/library/app/manifests/v1", []string{"User-Agent", "crane/0.20"},
			[]string{app.String() + ":v1 is " + upstreams.Digest.String()}, []string{upstreams.String() + " by user:reader with crane/0.20"}},
		{"of the tag alone by HEAD", "reader", "HEAD", "/v2/docker.io/library/app/manifests/v1", nil, []string{app.String() + ":v1 is " + upstreams.Digest.String()}, nil},
		{"of a digest that is served", "reader", "GET", "/v2/docker.io/library/app/manifests/" + upstreams.Digest.String(), nil,
			nil, []string{upstreams.String() + " by user:reader with "}},
		{"of nothing by whoever has it already", "reader", "GET", "/v2/docker.io/library/app/manifests/v1",
			[]string{"If-None-Match", `"` + upstreams.Digest.String() + `"`}, []string{app.String() + ":v1 is " + upstreams.Digest.String()}, nil},
		{"not of a tag that is answered from memory", "reader", "GET", "/v2/docker.io/library/app/manifests/old", nil, nil, []string{old.String() + " by user:reader with "}},
		{"of a tag whose image is refused", "reader", "GET", "/v2/docker.io/library/app/manifests/late", nil, []string{app.String() + ":late is " + late.Digest.String()}, nil},
		{"of what was pushed under a tag that serves something else", "reader", "GET", "/v2/apps/web/manifests/v1", nil,
			[]string{web.String() + ":v1 is " + next.Digest.String()}, []string{hosts.String() + " by user:reader with "}},
		{"of what whoever pushes gets", "ci", "GET", "/v2/apps/web/manifests/v1", nil,
			[]string{web.String() + ":v1 is " + next.Digest.String()}, []string{next.String() + " by user:ci with "}},
		{"not of tags of signatures", "reader", "HEAD", "/v2/apps/web/manifests/sha256-" + hosts.Digest.Encoded() + ".sig", nil, nil, nil},
		{"of no blob", "reader", "GET", "/v2/docker.io/library/app/blobs/" + oci.FromBytes([]byte("layer of app")).String(), nil, nil, nil},
	} {
		t.Run(tt.law, func(t *testing.T) {
			n.resolved, n.pulled = nil, nil
			f.do(tt.method, tt.target, append(as(tt.who), tt.header...)...)
			for i, r := range n.resolved {
				n.resolved[i], _, _ = strings.Cut(r, " by ")
			}
			if diff := cmp.Diff(n.resolved, tt.resolved); diff != "" {
				t.Errorf("resolved (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(n.pulled, tt.pulled); diff != "" {
				t.Errorf("pulled (-got +want):\n%s", diff)
			}
		})
	}
	t.Run("of a push, and by whom", func(t *testing.T) {
		n.resolved = nil
		w := f.send("PUT", "/v2/apps/web/manifests/v9", emptyIndex, append(as("ci"), "Content-Type", oci.MediaTypeIndex)...)
		want := []string{web.String() + ":v9 is " + oci.FromBytes([]byte(emptyIndex)).String() + " by user:ci at "}
		if diff := cmp.Diff(n.resolved, want); diff != "" || w.Code != http.StatusCreated {
			t.Errorf("%d (-got +want):\n%s", w.Code, diff)
		}
	})
}

// moved returns a proxy for which the tag v of app stands for a new image, which nobody has decided about yet, and stood for an old one,
// which is allowed and was let out.
func moved(t *testing.T) (f *fixture, n *notes, old, now gate.Candidate) {
	f = newFixture(t)
	n = withNotes(f)
	old, now = f.image(app, "v", "old"), f.image(app, "v", "new")
	f.allow(old)
	f.once[old] = true
	n.earlier = map[string][]oci.Digest{app.String() + ":v": {old.Digest}}
	return f, n, old, now
}

func TestLastGood(t *testing.T) {
	const byTag = "/v2/docker.io/library/app/manifests/v"
	digestOf := func(w *httptest.ResponseRecorder) oci.Digest {
		return oci.Digest(w.Header().Get("Docker-Content-Digest"))
	}
	for law, tt := range map[string]struct {
		change func(f *fixture, n *notes, old, now gate.Candidate)
		// want is the status of a GET by tag; got which of the images is served then.
		want    int
		wantOld bool
	}{
		"what is allowed is served":                   {func(f *fixture, _ *notes, _, now gate.Candidate) { f.allow(now) }, 200, false},
		"what is denied gives way to what was before": {func(f *fixture, _ *notes, _, now gate.Candidate) { f.deny(now, "unsigned") }, 200, true},
		"what is judged for too long does":            {func(f *fixture, _ *notes, _, now gate.Candidate) { f.steps[now] = gate.StepInventory }, 200, true},
		"what could not be judged does not": {func(f *fixture, _ *notes, _, now gate.Candidate) {
			f.judge.failures[now] = &gate.NoVerdict{Step: gate.StepRecord, Err: errInternal}
		}, 503, false},
		"what is denied by now is not served":         {func(f *fixture, _ *notes, old, now gate.Candidate) { f.deny(now, "unsigned"); f.deny(old, "unsigned") }, 403, false},
		"what nobody has decided about is not served": {func(f *fixture, _ *notes, old, now gate.Candidate) { f.deny(now, "unsigned"); delete(f.verdicts, old) }, 403, false},
		"what is being judged is not served": {func(f *fixture, _ *notes, old, now gate.Candidate) {
			f.deny(now, "unsigned")
			f.steps[old] = gate.StepMatch
		}, 403, false},
		"what was never let out is not served": {func(f *fixture, _ *notes, old, now gate.Candidate) { f.deny(now, "unsigned"); delete(f.once, old) }, 403, false},
		"a verdict on something else counts for nothing": {func(f *fixture, _ *notes, old, now gate.Candidate) {
			f.deny(now, "unsigned")
			v := f.verdicts[old]
			v.Digest = now.Digest
			f.verdicts[old] = v
		}, 403, false},
		"what there is too long is not served": {func(f *fixture, n *notes, _, now gate.Candidate) {
			f.deny(now, "unsigned")
			n.earlier = map[string][]oci.Digest{}
		}, 403, false},
		"nothing is served where no policy says so":            {func(f *fixture, n *notes, _, now gate.Candidate) { f.deny(now, "unsigned"); n.earlier = nil }, 403, false},
		"nothing is served when what was before is not known":  {func(f *fixture, n *notes, _, now gate.Candidate) { f.deny(now, "unsigned"); n.fails = errInternal }, 403, false},
		"what an upstream does not have any more is not there": {func(f *fixture, _ *notes, _, _ gate.Candidate) { delete(f.tags, app.String()+":v") }, 404, false},
		"what may not be had by that tag is not served": {func(f *fixture, _ *notes, old, now gate.Candidate) {
			f.deny(now, "unsigned")
			f.judge.tagVerdicts = map[string]gate.Verdict{"v@" + old.Digest.String(): {Reasons: []gate.Reason{{Rule: gate.RuleCEL, Message: "pin a version"}}}}
		}, 403, false},
		"the last of several that is allowed is served": {func(f *fixture, n *notes, old, now gate.Candidate) {
			f.deny(now, "unsigned")
			between := f.image(app, "between", "between")
			f.once[between] = true
			f.deny(between, "unsigned")
			n.earlier[app.String()+":v"] = []oci.Digest{between.Digest, old.Digest}
		}, 200, true},
	} {
		t.Run(law, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the clock of the waits
				f, n, old, now := moved(t)
				tt.change(f, n, old, now)
				want := now
				if tt.wantOld {
					want = old
				}
				for _, target := range []string{byTag, "/v2/library/app/manifests/v?ns=docker.io"} {
					w := f.do("GET", target)
					if w.Code != tt.want || w.Code == 200 && (digestOf(w) != want.Digest || oci.FromBytes(w.Body.Bytes()) != want.Digest) {
						t.Errorf("%s: got %d %s, want %d %s", target, w.Code, digestOf(w), tt.want, want.Digest)
					}
					marked := strings.HasPrefix(w.Header().Get("Tidewaiter-Last-Good"), now.Digest.String()+" ")
					if marked != tt.wantOld || strings.Contains(w.Header().Get("Warning"), now.Digest.String()) != tt.wantOld {
						t.Errorf("%s: marked: %t, want %t: %v", target, marked, tt.wantOld, w.Header())
					}
					if head := f.do("HEAD", target); tt.want == 200 && (head.Code != 200 || digestOf(head) != digestOf(w) || head.Header().Get("Tidewaiter-Last-Good") != w.Header().Get("Tidewaiter-Last-Good")) {
						t.Errorf("%s: HEAD tells of %d %s, GET of %s", target, head.Code, digestOf(head), digestOf(w))
					}
				}
				if w := f.do("GET", "/v2/docker.io/library/app/manifests/"+now.Digest.String()); w.Code == 200 && digestOf(w) != now.Digest {
					t.Error("a digest is answered with another one")
				}
			})
		})
	}
	t.Run("a mirror's client is given no tombstone in place of it", func(t *testing.T) {
		f, _, old, now := moved(t)
		f.deny(now, "unsigned")
		if w := f.do("HEAD", fmt.Sprintf(mirrored, "v")); digestOf(w) != old.Digest {
			t.Errorf("got %s, want %s", digestOf(w), old.Digest)
		}
	})
	t.Run("it is whoever gets it who pulled it", func(t *testing.T) {
		f, n, old, now := moved(t)
		f.deny(now, "unsigned")
		f.do("GET", byTag)
		if diff := cmp.Diff(n.pulled, []string{old.String() + " by anonymous with "}); diff != "" {
			t.Errorf("-got +want:\n%s", diff)
		}
	})
	t.Run("in a hosted repository it must be there still", func(t *testing.T) {
		f := newFixture(t)
		d, n := withDock(f), withNotes(f)
		old := d.pushed(f, web, "v", "old")
		now := d.pushed(f, web, "v", "now")
		d.serve(web, "v")
		f.deny(now, "unsigned")
		f.allow(old)
		f.once[old] = true
		n.earlier = map[string][]oci.Digest{web.String() + ":v": {old.Digest}}
		if w := f.do("GET", "/v2/apps/web/manifests/v", as("reader")...); digestOf(w) != old.Digest {
			t.Errorf("got %d %s, want %s", w.Code, digestOf(w), old.Digest)
		}
		delete(d.manifests, old)
		if w := f.do("GET", "/v2/apps/web/manifests/v", as("reader")...); w.Code != 403 {
			t.Errorf("got %d, want 403", w.Code)
		}
	})
}

func TestLastGoodOfIndexes(t *testing.T) {
	const byTag = "/v2/docker.io/library/app/manifests/multi"
	setup := func(t *testing.T) (f *fixture, good, bad, old, now gate.Candidate) {
		f = newFixture(t)
		n := withNotes(f)
		good, bad = f.image(app, "good", "good"), f.image(app, "bad", "bad")
		old, now = f.index("multi", "linux/amd64", good), f.index("multi", "linux/amd64", bad)
		f.allow(good, old, now)
		f.deny(bad, "unsigned")
		f.once[old] = true
		n.earlier = map[string][]oci.Digest{app.String() + ":multi": {old.Digest}}
		return f, good, bad, old, now
	}
	digest := func(f *fixture, target string) (int, oci.Digest) {
		w := f.do("GET", target)
		return w.Code, oci.Digest(w.Header().Get("Docker-Content-Digest"))
	}
	t.Run("one whose child is denied gives way", func(t *testing.T) {
		f, _, _, old, _ := setup(t)
		if code, d := digest(f, byTag); code != 200 || d != old.Digest {
			t.Errorf("got %d %s, want %s", code, d, old.Digest)
		}
	})
	t.Run("one of which a child is denied by now is not served, and who may have some of the new one gets that", func(t *testing.T) {
		f, good, _, _, now := setup(t)
		f.deny(good, "unsigned")
		if code, d := digest(f, byTag); code != 200 || d != now.Digest {
			t.Errorf("got %d %s, want %s", code, d, now.Digest)
		}
		if code, _ := digest(f, "/v2/library/app/manifests/multi?ns=docker.io"); code != 403 {
			t.Errorf("a mirror's client: got %d, want 403", code)
		}
	})
	t.Run("without a policy that says so it is served as it is", func(t *testing.T) {
		f, _, _, _, now := setup(t)
		f.proxy.o.LastGood = nil
		if code, d := digest(f, byTag); code != 200 || d != now.Digest {
			t.Errorf("got %d %s, want %s", code, d, now.Digest)
		}
	})
}
