package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// ofAge returns a policy that asks for nothing but that images have been known for so long.
func ofAge(age string) []byte {
	return fmt.Appendf(nil, "policies: [{name: aged, match: {repositories: ['**']}, on_fail: block, min_age: %s}]\n", age)
}

// tagged puts an image of the upstream under a tag it had before.
func (s *site) tagged(t *testing.T, repo, tag string, d oci.Digest) {
	t.Helper()
	content, ok := s.upstream.Manifest(repo, d.String())
	if !ok {
		t.Fatalf("the upstream has no %s@%s", repo, d)
	}
	s.upstream.PutManifest(repo, tag, content.MediaType, content.Raw)
}

// api asks the admin API and reads what it answers.
func api[T any](t *testing.T, p *server, path string) T {
	t.Helper()
	got := request(t, http.MethodGet, "http://"+p.admin+path)
	if got.status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", path, got.status, got.body)
	}
	return decode[T](t, string(got.body))
}

func TestMinAge(t *testing.T) {
	t.Run("denies what came just now, says until when, and fetches no layer for it", func(t *testing.T) {
		s := newSite(t, ocitest.Options{})
		writeFile(t, s.path("policy.yaml"), ofAge("24h"))
		desc := s.push(t, "shop/web", shop(goodLodash))
		p := s.serve(t)
		got := p.pull(t, "shop/web")
		if got.status != http.StatusForbidden || !strings.Contains(got.message, "min_age is 24h, passes at ") {
			t.Errorf("got %+v", got)
		}
		if n := s.upstream.Count(http.MethodGet, ocitest.KindBlob); n != 0 {
			t.Errorf("%d blobs were fetched", n)
		}
		image := api[struct {
			Verdict struct {
				Reasons   []struct{ Rule string }
				FirstSeen time.Time `json:"first_seen"`
				Until     time.Time
			}
		}](t, p, "/api/v1/images/"+host+"/shop/web@"+desc.Digest.String())
		v := image.Verdict
		if len(v.Reasons) != 1 || v.Reasons[0].Rule != "min-age" || v.Until.Sub(v.FirstSeen) != 24*time.Hour {
			t.Errorf("the verdict: %+v", v)
		}
	})
	t.Run("admits it once it is old enough, and a restart does not make it younger", func(t *testing.T) {
		s := newSite(t, ocitest.Options{})
		writeFile(t, s.path("policy.yaml"), ofAge("24h"))
		desc := s.push(t, "shop/web", shop(goodLodash))
		p := s.serve(t)
		if got := p.pull(t, "shop/web"); got.status != http.StatusForbidden {
			t.Fatalf("got %+v", got)
		}
		p.stop(t)
		writeFile(t, s.path("policy.yaml"), ofAge("1ms")) // which has passed since
		p = s.serve(t)
		p.mustPull(t, "shop/web")
		image := api[struct {
			Verdict struct {
				FirstSeen time.Time `json:"first_seen"`
			}
			History []struct {
				FirstSeen time.Time `json:"first_seen"`
			}
		}](t, p, "/api/v1/images/"+host+"/shop/web@"+desc.Digest.String())
		if len(image.History) != 1 || !image.Verdict.FirstSeen.Equal(image.History[0].FirstSeen) {
			t.Errorf("first seen at another time: %+v", image)
		}
	})
}

func TestTagsThatMove(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("policy.yaml"), []byte("policies: [{name: any, match: {repositories: ['**']}}]\n"))
	s.upstreamKeys()["tag_ttl"] = "0s"
	p := s.serve(t)
	first := s.push(t, "shop/web", shop(goodLodash))
	p.mustPull(t, "shop/web")
	second := s.push(t, "shop/web", shop(goodLodash, noise(1000, 1)))
	p.log.awaitMore(t, "the tag moved", says("a version's tag moved"), func() { p.mustPull(t, "shop/web") })
	s.tagged(t, "shop/web", "1.0", first.Digest)
	p.log.awaitMore(t, "the tag moved back", says(`"kind":"rolled_back"`), func() { p.mustPull(t, "shop/web") })
	for kind, want := range map[string]float64{"moved": 1, "rolled_back": 1} {
		if got := p.metric(t, "tidewaiter_tag_moves_total", `kind="`+kind+`"`); got != want {
			t.Errorf("%s: %g moves are counted, want %g", kind, got, want)
		}
	}
	type list struct {
		Tags []struct {
			Tag    string
			Digest oci.Digest
			By     struct{ Name, Address string }
		}
	}
	var got []oci.Digest
	for _, moved := range api[list](t, p, "/api/v1/tags/"+host+"/shop/web?tag=1.0").Tags {
		got = append(got, moved.Digest)
		if moved.Tag != "1.0" || moved.By.Name != "anonymous" || moved.By.Address != "127.0.0.1" {
			t.Errorf("got %+v", moved)
		}
	}
	if diff := cmp.Diff(got, []oci.Digest{first.Digest, second.Digest, first.Digest}); diff != "" {
		t.Errorf("the history (-got +want):\n%s", diff)
	}
	if all := api[list](t, p, "/api/v1/tags/"+host+"/shop/web").Tags; len(all) != 1 || all[0].Digest != first.Digest {
		t.Errorf("the tags: %+v", all)
	}
}

// withdrawn are advisories by which what was good is not any more.
func withdrawn() []ocitest.Advisory {
	return append(advisories(), ocitest.Advisory{
		Bucket: "npm::GitHub Security Advisory npm", Source: "ghsa", Package: "lodash", ID: "CVE-2026-9999", Severity: "critical",
		Vulnerable: []string{"<5.0.0"}, Patched: []string{"5.0.0"}, Title: "Everything in lodash", Published: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	})
}

// An image that clients pulled and that is withdrawn names them: in the log, the API, the commands and metrics, once, and after a restart.
func TestRecall(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.config["audit"] = keys{"path": s.path("audit.jsonl")}
	desc := s.pushSigned(t, "shop/web", shop(goodLodash))
	s.pushSigned(t, "shop/other", shop(goodLodash, noise(1000, 1))) // which nobody pulls
	ref := host + "/shop/web@" + desc.Digest.String()
	p := s.serve(t)
	p.mustPull(t, "shop/web")
	p.log.await(t, "judging the other", verdicts(request(t, http.MethodHead, "http://"+p.registry+"/v2/"+host+"/shop/other/manifests/1.0").header.Get("Docker-Content-Digest")))
	s.replaceAdvisories(t, p, withdrawn())
	recalled := says("an image that clients have was withdrawn")
	p.log.awaitMore(t, "the recall", recalled, func() {
		for _, repo := range []string{"shop/other", "shop/web", "shop/web"} {
			if got := p.pull(t, repo); got.status != http.StatusForbidden {
				t.Errorf("%s: got %+v", repo, got)
			}
		}
	})
	check := func(t *testing.T, p *server) {
		t.Helper()
		image := api[struct {
			Pulls struct {
				Clients []struct {
					Name, Address, Agent string
					Count                int
				}
			}
			Recalled *struct{ Reasons []string }
		}](t, p, "/api/v1/images/"+ref)
		by := image.Pulls.Clients
		if len(by) != 1 || by[0].Name != "anonymous" || by[0].Address != "127.0.0.1" || by[0].Count != 1 || !strings.HasPrefix(by[0].Agent, "Go-http-client") {
			t.Errorf("pulled by %+v", by)
		}
		if image.Recalled == nil || !slices.ContainsFunc(image.Recalled.Reasons, func(r string) bool { return strings.Contains(r, "CVE-2026-9999") }) {
			t.Errorf("recalled: %+v", image.Recalled)
		}
		if n := p.metric(t, "tidewaiter_recalled_images", ""); n != 1 {
			t.Errorf("%g images are recalled by the metric, want 1", n)
		}
		for _, i := range []invocation{
			{"verdict names who has it", []string{"verdict", "--server", "http://" + p.admin, ref}, 3, []string{"DENY", "recalled ", "CVE-2026-9999", "by anonymous", "at 127.0.0.1"}, nil},
			{"verdict does so as JSON", []string{"verdict", "--pulls", "-o", "json", "--server", "http://" + p.admin, ref}, 3, []string{`"recalled"`, `"address": "127.0.0.1"`}, nil},
			{"recalls lists it", []string{"recalls", "--server", "http://" + p.admin}, 0, []string{"WITHDRAWN  " + ref, "CVE-2026-9999", "by anonymous"}, nil},
			{"recalls lists it as JSON", []string{"recalls", "-o", "json", "--server", "http://" + p.admin}, 0, []string{desc.Digest.String(), `"address": "127.0.0.1"`}, nil},
		} {
			i.run(t)
		}
		if page := string(request(t, http.MethodGet, "http://"+p.admin+"/images/"+ref).body); !strings.Contains(page, "Withdrawn") || !strings.Contains(page, "127.0.0.1") {
			t.Errorf("the page:\n%s", page)
		}
	}
	check(t, p)
	if n := p.log.count(recalled); n != 1 {
		t.Errorf("%d recalls, want 1", n)
	}
	if n := p.metric(t, "tidewaiter_recalls_total", ""); n != 1 {
		t.Errorf("%g recalls are counted, want 1", n)
	}
	p.kill()
	again := s.serve(t)
	for again.metric(t, "tidewaiter_recalled_images", "") != 1 { // it looks through the repositories while it serves
		again.settle(t)
	}
	check(t, again)
	if n := again.log.count(recalled); n != 0 {
		t.Errorf("%d recalls after a restart, want none", n)
	}
	record, err := os.ReadFile(s.path("audit.jsonl"))
	if err != nil || strings.Count(string(record), "image.recalled") != 1 {
		t.Errorf("the audit log, %v:\n%s", err, record)
	}
}

// lastGoodPolicy serves what a tag stood for before while what it stands for now is denied.
const lastGoodPolicy = `policies:
  - name: content
    match: {repositories: ["**"]}
    on_fail: block
    vulnerabilities: {deny_at: high, only_fixable: true}
    last_good: 24h
`

func TestLastGood(t *testing.T) {
	s := newSite(t, ocitest.Options{})
	s.upstreamKeys()["tag_ttl"] = "0s"
	writeFile(t, s.path("policy.yaml"), []byte(lastGoodPolicy))
	p := s.serve(t)
	good := s.push(t, "shop/web", shop(goodLodash))
	p.mustPull(t, "shop/web")
	bad := s.push(t, "shop/web", shop(badLodash))
	path := "/v2/" + host + "/shop/web/manifests/"
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		got := p.ask(t, method, path+"1.0")
		marked := got.header.Get("Tidewaiter-Last-Good")
		if got.status != http.StatusOK || got.header.Get("Docker-Content-Digest") != good.Digest.String() ||
			!strings.HasPrefix(marked, bad.Digest.String()+" content: CVE-2019-10744") || !strings.Contains(got.header.Get("Warning"), bad.Digest.String()) {
			t.Errorf("%s by tag: %d %v", method, got.status, got.header)
		}
	}
	if got := p.get(t, path+bad.Digest.String()); got.status != http.StatusForbidden {
		t.Errorf("by digest: status %d, want 403", got.status)
	}
	if n := p.metric(t, "tidewaiter_last_good_total", `why="denied"`); n != 2 {
		t.Errorf("%g are counted, want 2", n)
	}
	eligible := []string{"eligible", "--server", "http://" + p.admin, host + "/shop/web:1.0"}
	for _, i := range []invocation{
		{"eligible names the last good digest, and why the newer is not", eligible, 0, []string{"ELIGIBLE  registry.test/shop/web:1.0@" + good.Digest.String(), "deny  " + bad.Digest.String(), "CVE-2019-10744"}, nil},
		{"eligible does so as JSON", append(slices.Clone(eligible), "-o", "json"), 0, []string{`"digest": "` + good.Digest.String()}, nil},
		{"eligible takes tags only", []string{"eligible", "--server", "http://" + p.admin, host + "/shop/web@" + good.Digest.String()}, 1, nil, []string{"by tag"}},
	} {
		i.run(t)
	}
	t.Run("crane", func(t *testing.T) {
		u, crane := newUser(t), program(t, "crane")
		got := u.mustRun(t, crane, "digest", "--insecure", p.ref("shop/web"))
		if !strings.HasPrefix(got, good.Digest.String()+"\n") || !strings.Contains(got, "the tag stands for "+bad.Digest.String()) {
			t.Errorf("got %s, want %s and a warning", got, good.Digest)
		}
		client := cranePull(t, p)
		if out, ok := client.pull(p.ref("shop/web")); !ok || !filesIn(t, client.files)[good.Digest] {
			t.Errorf("it does not get the last good one:\n%s", out)
		}
	})
	for name, kind := range map[string]containerdKind{"containerd 1.6": containerd1, "containerd 2.4": containerd2} {
		t.Run(name+", by the name of the upstream", func(t *testing.T) {
			c := startContainerd(t, kind)
			endpoint := "http://" + p.registry
			c.configure(t, host, fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", endpoint, endpoint))
			client := c.ctrPuller(t)
			if out, ok := client.pull(host + "/shop/web:1.0"); !ok || !filesIn(t, client.files)[good.Digest] {
				t.Errorf("it does not get the last good one:\n%s", out)
			}
		})
	}
	if n := p.metric(t, "tidewaiter_tombstones_total", ""); n != 0 {
		t.Errorf("%g tombstones were answered", n)
	}
	t.Run("an index gives way when a child is denied, and is not eligible", func(t *testing.T) {
		index := func(lodash string) oci.Digest {
			child, err := s.upstream.PushImage("shop/multi", "", ocitest.Image{
				Layers: shop(lodash, noise(1000, 1)), Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
			})
			if err != nil {
				t.Fatal(err)
			}
			desc, err := s.upstream.PushIndex("shop/multi", "1.0", child)
			if err != nil {
				t.Fatal(err)
			}
			return desc.Digest
		}
		good := index(goodLodash)
		p.get(t, "/v2/"+host+"/shop/multi/manifests/1.0")
		bad := index(badLodash)
		if got := p.get(t, "/v2/"+host+"/shop/multi/manifests/1.0").header.Get("Docker-Content-Digest"); got != good.String() {
			t.Errorf("got %s, want %s", got, good)
		}
		invocation{"by the verdict on the child", []string{"eligible", "--server", "http://" + p.admin, host + "/shop/multi:1.0"}, 0,
			[]string{"@" + good.String(), "deny  " + bad.String(), "CVE-2019-10744"}, nil}.run(t)
	})
	t.Run("nothing is served in place of it once all before it are denied", func(t *testing.T) {
		s.replaceAdvisories(t, p, withdrawn())
		if got := p.get(t, path+"1.0"); got.status != http.StatusForbidden {
			t.Errorf("status %d, want 403", got.status)
		}
		invocation{"and none is eligible", eligible, 3, []string{"NONE  of what"}, nil}.run(t)
	})
}
