package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// takeDown has the upstream answer nothing any more, and forgets what it was asked so far.
func (s *site) takeDown() {
	s.upstream.SetIntercept(ocitest.When(func(ocitest.Request) bool { return true }, ocitest.Status(http.StatusServiceUnavailable, 0, "down")))
	s.upstream.ResetRequests()
}

// lodashAdvisory makes lodash before a version vulnerable, in the place of the one in [advisories].
func lodashAdvisory(before string) []ocitest.Advisory {
	rows := advisories()
	rows[0].Vulnerable, rows[0].Patched = []string{"<" + before}, []string{before}
	return rows
}

// byDigest asks for an image by its digest and returns the status.
func (s *server) byDigest(t *testing.T, method, repo string, d oci.Digest) int {
	t.Helper()
	return s.ask(t, method, "/v2/"+host+"/"+repo+"/manifests/"+d.String()).status
}

// judgedAgain waits until everything held was judged again after do, and returns what the log says of it.
func (s *server) judgedAgain(t *testing.T, do func()) (said string) {
	t.Helper()
	ended := func(l line) bool { return l.Msg == "judged again" && strings.Contains(l.text, `"finished":true`) }
	s.log.awaitMore(t, "judging again", func(l line) bool {
		if ended(l) {
			said = l.text
			return true
		}
		return false
	}, do)
	return said
}

// TestHeldImagesAreJudgedAgain has nobody pull after each change, and an upstream that is down all the time.
func TestHeldImagesAreJudgedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, ocitest.Options{})
	own := noise(1000, 1)
	old := s.pushSigned(t, "shop/old", shop(goodLodash, own)).Digest
	current := s.pushSigned(t, "shop/current", shop("4.17.30", noise(1000, 2))).Digest
	layers := s.parsed(t, "shop/old", old).Layers
	p := s.serve(t)
	for _, repo := range []string{"shop/old", "shop/current"} {
		p.mustPull(t, repo)
	}
	s.takeDown()
	statuses := func(t *testing.T, law string, wantOld, wantCurrent int) {
		t.Helper()
		for repo, want := range map[string]int{"shop/old": wantOld, "shop/current": wantCurrent} {
			d := map[string]oci.Digest{"shop/old": old, "shop/current": current}[repo]
			for _, method := range []string{"HEAD", "GET"} {
				if got := p.byDigest(t, method, repo, d); got != want {
					t.Errorf("%s: %s of %s: status %d, want %d", law, method, repo, got, want)
				}
			}
		}
		wantBlob := http.StatusOK
		if wantOld != http.StatusOK {
			wantBlob = http.StatusNotFound
		}
		if got := p.blob(t, "shop/old", layers[len(layers)-1].Digest).status; got != wantBlob {
			t.Errorf("%s: a blob of shop/old: status %d, want %d", law, got, wantBlob)
		}
	}
	policy := func(more string) func() {
		return func() { writeFile(t, s.path("policy.yaml"), []byte(strictPolicy+more)) }
	}
	for _, step := range []struct {
		law                      string
		change                   func()
		wantOld, wantCurrent     int
		wantWithdrawn, wantAdmit int
	}{
		{"an advisory comes", func() { s.replaceAdvisories(t, p, lodashAdvisory("4.17.25")) }, 403, 200, 1, 0},
		{"it goes", func() { s.replaceAdvisories(t, p, advisories()) }, 200, 200, 0, 1},
		{"a policy denies more", policy("    image: {max_bytes: 10}\n"), 403, 403, 2, 0},
		{"a waiver excepts one", func() {
			policy("    image: {max_bytes: 10}\nwaivers:\n  - {rule: size, repositories: [\"" + host + "/shop/current\"], until: 2099-01-01T00:00:00Z, reason: \"it is that large\", by: alice}\nwaiver_max: 1000000h\n")()
		}, 403, 200, 0, 1},
		{"the policy is as it was", policy(""), 200, 200, 0, 1},
	} {
		said := p.judgedAgain(t, step.change)
		counts := fmt.Sprintf(`"withdrawn":%d,"released":%d,"unchanged":%d,"failed":0`, step.wantWithdrawn, step.wantAdmit, 2-step.wantWithdrawn-step.wantAdmit)
		if !strings.Contains(said, `"candidates":2,`) || !strings.Contains(said, counts) {
			t.Errorf("%s: the log says %s, want %d withdrawn and %d released of 2", step.law, said, step.wantWithdrawn, step.wantAdmit)
		}
		statuses(t, step.law, step.wantOld, step.wantCurrent)
	}
	if asked := s.upstream.Requests(); len(asked) != 0 {
		t.Errorf("the upstream was asked %d times, the first time for %s %s, want not once", len(asked), asked[0].Method, asked[0].Kind)
	}
	for result, want := range map[string]float64{"withdrawn": 3, "released": 3, "unchanged": 4, "failed": 0} {
		if got := p.metric(t, "tidewaiter_rejudge_total", `result="`+result+`"`); got != want {
			t.Errorf("tidewaiter_rejudge_total of %s is %v, want %v", result, got, want)
		}
	}
	if got := p.metric(t, "tidewaiter_rejudge_pending", ""); got != 0 {
		t.Errorf("tidewaiter_rejudge_pending is %v, want 0", got)
	}
}

// TestRejudgingKilled kills the proxy while it judges two hundred images again. The next one completes the work, and serves none
// meanwhile that has become known to be bad.
func TestRejudgingKilled(t *testing.T) {
	t.Parallel()
	const images, killAfter = 200, 60
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte(strings.Replace(blockPolicy, "block", "quarantine", 1)))
	s.config["rejudge"] = keys{"per_second": 100}
	digests := make([]oci.Digest, images)
	repo := func(i int) string { return fmt.Sprintf("shop/web-%d", i%20) }
	want := func(i int) int { // once the advisory has come
		if i%2 == 0 {
			return http.StatusForbidden
		}
		return http.StatusOK
	}
	for i := range images {
		version := map[int]string{http.StatusForbidden: goodLodash, http.StatusOK: "4.17.30"}[want(i)]
		desc, err := s.upstream.PushImage(repo(i), fmt.Sprint(i), ocitest.Image{Layers: shop(version), Annotations: map[string]string{"n": fmt.Sprint(i)}})
		if err != nil {
			t.Fatal(err)
		}
		digests[i] = desc.Digest
	}
	var judged atomic.Int32
	var victim atomic.Pointer[process]
	p := serveWatched(t, s.write(t), func(l line) {
		if v := victim.Load(); v != nil && l.Msg == "verdict" && judged.Add(1) == killAfter {
			_ = v.cmd.Process.Kill() // only this kills it
		}
	})
	for i, d := range digests {
		if got := p.byDigest(t, "GET", repo(i), d); got != http.StatusOK {
			t.Fatalf("image %d: status %d", i, got)
		}
	}
	s.takeDown()
	victim.Store(p.process)
	s.replaceAdvisories(t, p, lodashAdvisory("4.17.25"))
	<-p.gone
	if n := judged.Load(); n < killAfter || n > images-10 {
		t.Fatalf("it was killed after %d of %d, which is not in the middle", n, images)
	}
	next := serve(t, s.path("tidewaiter.yaml"))
	for i, d := range digests { // beside the judging
		if got := next.byDigest(t, "GET", repo(i), d); got != want(i) {
			t.Errorf("image %d, while it is gone through: status %d, want %d", i, got, want(i))
		}
	}
	next.log.await(t, "completing the work", func(l line) bool {
		return l.Msg == "judged again" && strings.Contains(l.text, `"finished":true`) && strings.Contains(l.text, `"failed":0`)
	})
	for i, d := range digests {
		if got := next.byDigest(t, "HEAD", repo(i), d); got != want(i) {
			t.Errorf("image %d, afterwards: status %d, want %d", i, got, want(i))
		}
	}
	total := int(judged.Load()) + next.log.count(func(l line) bool { return l.Msg == "verdict" })
	if total < images || total > images+5 {
		t.Errorf("there were %d verdicts on %d images, want each judged once, but for what was under way", total, images)
	}
	if asked := s.upstream.Requests(); len(asked) != 0 {
		t.Errorf("the upstream was asked %d times, want not once", len(asked))
	}
	next.stop(t)
}
