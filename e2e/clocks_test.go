package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// ageingPolicy asks for everything, and below young/ for a day of age too.
const ageingPolicy = `policies:
  - name: young
    match: {repositories: ["registry.test/young/**"]}
    on_fail: quarantine
    require: {signatures: {any_of: [release]}}
    min_age: 24h
  - name: production
    match: {repositories: ["**"]}
    on_fail: quarantine
    require: {signatures: {any_of: [release]}}
    vulnerabilities: {deny_at: high, only_fixable: true}
`

// TestClockJumps sets the clock of a running proxy forward by days, back, and behind. What lapses by the clock lapses, what was decided
// by a clock that ran ahead does not outlive the jump, and what is taken back while it is behind stays taken back.
func TestClockJumps(t *testing.T) {
	const day, excuse = 24 * time.Hour, "2h"
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	access := s.config["access"].(keys)
	access["grants"] = append(access["grants"].([]any), keys{"who": "user:ci", "repositories": []string{"**"}, "actions": []string{"review"}})
	s.config["audit"] = keys{"path": s.path("audit.jsonl")}
	writeFile(t, s.path("policy.yaml"), []byte(ageingPolicy))
	for repo, layers := range map[string][]ocitest.LayerSpec{
		"shop/web": shop(goodLodash), "shop/vulnerable": shop(badLodash), "young/web": shop(goodLodash, noise(1000, 1)),
		"shop/excused": shop(badLodash, noise(1000, 2)), "shop/revoked": shop(badLodash, noise(1000, 3)),
	} {
		s.pushSigned(t, repo, layers)
	}
	s.config["advisories"].(keys)["max_age"] = "120h"
	written := ocitest.WriteAdvisories(s.path("advisories"), time.Now().Add(-2*day), advisories()) // before any time it will be
	if written != nil {
		t.Fatal(written)
	}
	pushed := s.push(t, "shop/pushed", shop(goodLodash, noise(1000, 4)))
	clock := &wall{}
	p := s.serveByClock(t, clock)
	const tag = "/v2/apps/web/manifests/1.0"
	ci := pusher{t, p, "ci"}
	ci.image(s.upstream, "shop/pushed", pushed.Digest, "apps/web", "1.0")
	ci.signed(s, "shop/pushed", pushed.Digest, "apps/web", s.release)
	waivers := map[string]string{}
	for _, repo := range []string{"shop/excused", "shop/revoked"} {
		p.pull(t, repo)
		got := tidewaiter(t, "quarantine", "release", "--server", p.as("ci"), host+"/"+repo+":1.0", "--for", excuse, "--reason", "x", "-o", "json")
		if got.code != 0 {
			t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
		}
		waivers[repo] = decode[struct{ Waivers []granted }](t, got.stdout).Waivers[0].ID
	}
	statuses := func(law string, web, excused, revoked, young, hosted int) {
		t.Helper()
		for repo, want := range map[string]int{
			"shop/web": web, "shop/vulnerable": http.StatusForbidden, "shop/excused": excused, "shop/revoked": revoked, "young/web": young,
		} {
			if got := p.pull(t, repo); got.status != want {
				t.Errorf("%s: %s: status %d: %s, want %d", law, repo, got.status, got.message, want)
			}
		}
		if got := (pusher{t, p, ""}).send(http.MethodGet, tag, nil); got.status != hosted {
			t.Errorf("%s: what was pushed: status %d: %s, want %d", law, got.status, got.body, hosted)
		}
	}
	statuses("at first", 200, 200, 200, 403, 200)
	clock.set(day + time.Hour)
	statuses("a day ahead, where waivers have lapsed and the young have come of age", 200, 403, 403, 200, 200)
	clock.set(0)
	young, _ := s.upstream.Manifest("young/web", "1.0")
	for _, d := range s.parsed(t, "young/web", oci.FromBytes(young.Raw)).Blobs() { // before anybody asks for the image
		if got := p.blob(t, "young/web", d.Digest); got.status != http.StatusNotFound {
			t.Errorf("back from a day ahead: blob %s of young/web: status %d, want 404", d.Digest, got.status)
		}
	}
	statuses("back from a day ahead", 200, 200, 200, 403, 200)
	clock.set(10 * day)
	statuses("ten days ahead, where the advisory data is too old", 403, 403, 403, 200, 403)
	clock.set(0)
	statuses("back from ten days ahead", 200, 200, 200, 403, 200)
	clock.set(-day - time.Hour)
	statuses("a day behind", 200, 200, 200, 403, 200)
	if got := tidewaiter(t, "waiver", "revoke", waivers["shop/revoked"], "--server", p.as("ci"), "--reason", "x"); got.code != 0 {
		t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	ci.must(http.StatusAccepted, http.MethodDelete, tag, nil)
	statuses("a day behind, once it is taken back", 200, 200, 403, 403, 404)
	for _, at := range []struct {
		law   string
		ahead time.Duration
	}{{"in the next process, a day behind", -day - time.Hour}, {"in the next process, by the right clock", 0}} {
		p.stop(t)
		clock.set(at.ahead)
		p = s.serveByClock(t, clock)
		statuses(at.law, 200, 200, 403, 403, 404)
	}
	p.stop(t)
	s.verified(t)
	if n := p.log.count(says("the trail has a gap")); n > 0 {
		t.Errorf("%d times pulls were not put on record", n)
	}
}

// TestAReplicaWhoseClockIsWrong has two replicas, one of them most of a day ahead or behind: the other goes by none of its verdicts that
// follow from that, and both hear of what is taken back at either.
func TestAReplicaWhoseClockIsWrong(t *testing.T) {
	for law, ahead := range map[string]time.Duration{"ahead": 20 * time.Hour, "behind": -20 * time.Hour} {
		t.Run(law, func(t *testing.T) {
			s := newSite(t, ocitest.Options{})
			writeFile(t, s.path("policy.yaml"), []byte(strings.Replace(ageingPolicy, "24h", "12h", 1)))
			if err := ocitest.WriteAdvisories(s.path("advisories"), time.Now().Add(-24*time.Hour), advisories()); err != nil {
				t.Fatal(err)
			}
			s.pushSigned(t, "young/web", shop(goodLodash, noise(1000, 1)))
			s.pushSigned(t, "shop/vulnerable", shop(badLodash))
			clock := &wall{}
			clock.set(ahead)
			right, wrong := s.serve(t), s.serveByClock(t, clock)
			want := map[*server]int{right: http.StatusForbidden, wrong: http.StatusForbidden}
			if ahead > 0 {
				want[wrong] = http.StatusOK // for by that clock it has been known for long
			}
			for range 2 {
				for _, p := range []*server{right, wrong} {
					if got := p.pull(t, "young/web"); got.status != want[p] {
						t.Errorf("young/web: by the right clock %t: got %+v, want %d", p == right, got, want[p])
					}
					if got := p.pull(t, "shop/vulnerable"); got.status != http.StatusForbidden {
						t.Errorf("shop/vulnerable: by the right clock %t: got %+v, want a refusal", p == right, got)
					}
				}
			}
			for n, revoking := range []*server{right, wrong} {
				repo := fmt.Sprintf("shop/excused-%d", n)
				s.pushSigned(t, repo, shop(badLodash, noise(1000, uint64(10+n))))
				right.pull(t, repo)
				got := tidewaiter(t, "quarantine", "release", "--server", right.as(""), host+"/"+repo+":1.0", "--for", "48h", "--reason", "x", "-o", "json")
				if got.code != 0 {
					t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
				}
				for _, p := range []*server{right, wrong} {
					eventually(t, "it is let through", func() bool { return p.pull(t, repo).status == http.StatusOK })
				}
				id := decode[struct{ Waivers []granted }](t, got.stdout).Waivers[0].ID
				if got := revoking.api(t, "", http.MethodDelete, "waivers/"+id, `{"reason":"x"}`); got.status != http.StatusOK {
					t.Fatalf("revoking: %d %s", got.status, got.body)
				}
				for _, p := range []*server{right, wrong} {
					eventually(t, "it is refused", func() bool { return p.get(t, "/v2/"+host+"/"+repo+"/manifests/1.0").status == http.StatusForbidden })
				}
			}
		})
	}
}
