package e2e_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

// TestRedisHangs stops Redis from running, which leaves its connections open and everything sent there unanswered.
func TestRedisHangs(t *testing.T) {
	f := newFleet(t, 2, nil)
	f.pushSigned(t, "shop/vulnerable", shop(badLodash))
	images := 0
	right := func() (slowest time.Duration) {
		t.Helper()
		images++
		repo := fmt.Sprintf("shop/fresh-%d", images)
		f.pushSigned(t, repo, shop(goodLodash, noise(1000, uint64(images))))
		for _, p := range f.replicas {
			began := time.Now()
			p.mustPull(t, repo)
			if got := p.pull(t, "shop/vulnerable"); got.status != http.StatusForbidden {
				t.Errorf("shop/vulnerable: got %+v, want a refusal", got)
			}
			slowest = max(slowest, time.Since(began))
		}
		return slowest
	}
	before := right()
	f.redis.signal(t, syscall.SIGSTOP)
	during := []time.Duration{right(), right(), right()}
	f.redis.signal(t, syscall.SIGCONT)
	began := time.Now()
	for _, p := range f.replicas {
		eventually(t, "redis is used again", func() bool {
			right() // nothing else has it asked whether it answers
			return p.log.count(says("redis answers again")) > 0
		})
	}
	t.Logf("two pulls at one replica took up to %v before, %v while Redis hung; it was used again %v afterwards", before, during, time.Since(began).Round(time.Millisecond))
}

// TestWithdrawnEverywhere revokes the waiver an image rests on at one of three replicas: none of them serves anything of it any more. How
// long that takes is logged.
func TestWithdrawnEverywhere(t *testing.T) {
	f := newFleet(t, 3, nil)
	const times = 5
	var took []time.Duration
	for n := range times {
		repo := fmt.Sprintf("shop/excused-%d", n)
		image := f.pushSigned(t, repo, shop(badLodash, noise(1000, uint64(n))))
		layer := f.parsed(t, repo, image.Digest).Layers[0].Digest
		first, last := f.replicas[n%len(f.replicas)], f.replicas[(n+1)%len(f.replicas)]
		first.pull(t, repo)
		got := tidewaiter(t, "quarantine", "release", "--server", first.as(""), host+"/"+repo+":1.0", "--for", "1h", "--reason", "x", "-o", "json")
		if got.code != 0 {
			t.Fatalf("code %d: %s%s", got.code, got.stdout, got.stderr)
		}
		for _, p := range f.replicas {
			eventually(t, "it is let through", func() bool { return p.pull(t, repo).status == http.StatusOK })
		}
		id := decode[struct{ Waivers []granted }](t, got.stdout).Waivers[0].ID
		if got := last.api(t, "", http.MethodDelete, "waivers/"+id, `{"reason":"x"}`); got.status != http.StatusOK {
			t.Fatalf("revoking: %d %s", got.status, got.body)
		}
		began := time.Now()
		for _, p := range f.replicas {
			eventually(t, "it is refused", func() bool { return refusedWhole(t, p, repo, image.Digest, layer) })
		}
		took = append(took, time.Since(began).Round(time.Millisecond))
	}
	t.Logf("refused by all %d replicas within %v after the revocation was answered", len(f.replicas), took)
}

// refusedWhole reports whether an image that was let through is not any more: HEAD and GET, by tag and digest, and its layer.
func refusedWhole(t *testing.T, p *server, repo string, d, layer oci.Digest) bool {
	t.Helper()
	base := "/v2/" + host + "/" + repo
	for _, reference := range []string{"1.0", d.String()} {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			if p.ask(t, method, base+"/manifests/"+reference).status != http.StatusForbidden {
				return false
			}
		}
	}
	return p.blob(t, repo, layer).status == http.StatusNotFound
}

// TestFleetKilled kills one of three replicas in the middle of pulls and a push, time and again, wherever something has come to. The
// others answer rightly throughout, and know what it acknowledged.
func TestFleetKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	const rounds = 8
	f := newFleet(t, 2, func(s *site) { s.hostApps(t) })
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	killed, acknowledged := 0, 0
	for round := range rounds {
		good, bad := repoOf("good", round), repoOf("bad", round)
		image := f.pushSigned(t, good, shop(goodLodash, noise(freshBytes, random.Uint64())))
		f.pushSigned(t, bad, shop(badLodash, noise(freshBytes, random.Uint64())))
		tr := newTrap(random)
		f.upstream.SetIntercept(tr.upstream(f.upstream))
		victim := f.visitor(t, func(line) { tr.step(logLines, 1) })
		b := &builder{site: f.site, p: victim, sent: func(int) {}}
		pushed := map[string]bool{"before": b.push(t, good, image.Digest, fmt.Sprint("before-", round))}
		if !pushed["before"] {
			t.Fatalf("round %d: a push is not acknowledged", round)
		}
		tr.victim.Store(victim.process)
		n, failures := newNode(tr), make([]error, 4)
		var clients sync.WaitGroup
		for i, p := range []*server{victim, f.replicas[round%2]} {
			clients.Go(func() { failures[2*i] = expect(t.Context(), n, p.registry, good, http.StatusOK) })
			clients.Go(func() { failures[2*i+1] = expect(t.Context(), n, p.registry, bad, http.StatusForbidden) })
		}
		clients.Go(func() { pushed["meanwhile"] = b.push(t, good, image.Digest, fmt.Sprint("meanwhile-", round)) })
		clients.Wait()
		victim.kill()
		f.upstream.SetIntercept(nil)
		if err := errors.Join(failures...); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if tr.sprung.Load() {
			killed++
		}
		if pushed["meanwhile"] {
			acknowledged++
		}
		for _, p := range f.replicas {
			p.mustPull(t, good)
			if got := p.pull(t, bad); got.status != http.StatusForbidden {
				t.Errorf("round %d: %s: got %+v, want a refusal", round, bad, got)
			}
			for when, acknowledged := range pushed {
				r := pusher{t, p, "ci"}.send(http.MethodHead, fmt.Sprintf("/v2/apps/web/manifests/%s-%d", when, round), nil)
				if got := r.header.Get("Docker-Content-Digest"); acknowledged && got != image.Digest.String() {
					t.Errorf("round %d: what was pushed %s the kill: got %d %s, want %s", round, when, r.status, got, image.Digest)
				}
			}
		}
	}
	if killed < rounds/2 {
		t.Errorf("killed on the way %d times of %d, want more", killed, rounds)
	}
	t.Logf("killed on the way %d times of %d; %d pushes meanwhile were acknowledged", killed, rounds, acknowledged)
}

// visitor starts a replica that is to be killed.
func (f *fleet) visitor(t *testing.T, each func(line)) *server {
	t.Helper()
	storage, _ := f.config["storage"].(keys)
	storage["local"] = t.TempDir()
	return serveWatched(t, f.write(t), each)
}
