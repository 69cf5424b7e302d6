package e2e_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// fleet is some replicas over one bucket and one Redis.
type fleet struct {
	*site
	redis    *redis
	bucket   *bucket
	replicas []*server
}

// newFleet starts n replicas. Each has a folder of its own for what is arriving.
func newFleet(t *testing.T, n int, prepare func(s *site)) *fleet {
	t.Helper()
	r := newRedis(t)
	r.start(t)
	f := &fleet{site: newSite(t, ocitest.Options{}), redis: r, bucket: newBucket(t)}
	f.config["redis"] = keys{"url": "unix://" + r.socket}
	if prepare != nil {
		prepare(f.site)
	}
	f.useBucket(t, f.bucket)
	for range n {
		f.join(t)
	}
	return f
}

// join starts one more replica and returns it once it hears the others.
func (f *fleet) join(t *testing.T) *server {
	t.Helper()
	storage, _ := f.config["storage"].(keys)
	storage["local"] = f.path(fmt.Sprintf("local-%d", len(f.replicas)))
	p := f.serve(t)
	f.replicas = append(f.replicas, p)
	eventually(t, "the replica listens", func() bool { return f.redis.listeners(t) >= len(f.replicas) })
	return p
}

// listeners returns how many replicas hear announcements.
func (r *redis) listeners(t *testing.T) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(r.do(t, "PUBSUB", "NUMSUB", "tidewaiter:v1:announcements")[1], &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// verdicts returns how many verdicts the replicas made together.
func (f *fleet) verdicts(t *testing.T) (made float64) {
	t.Helper()
	for _, p := range f.replicas {
		select {
		case <-p.gone:
		default:
			made += p.metric(t, "tidewaiter_verdicts_total", "decision")
		}
	}
	return made
}

// pullAtOnce has n clients pull an image at the same time, each from the next replica, and returns what they got and how long it took.
func (f *fleet) pullAtOnce(t *testing.T, n int, repo string) ([]pulled, time.Duration) {
	t.Helper()
	got, failures := make([]pulled, n), make([]error, n)
	var pulling sync.WaitGroup
	began := time.Now()
	for i := range n {
		pulling.Go(func() {
			got[i], failures[i] = client.pull(t.Context(), f.replicas[i%len(f.replicas)].registry, repo, "1.0")
		})
	}
	pulling.Wait()
	for i, err := range failures {
		if err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
	return got, time.Since(began)
}

// TestFleet has three replicas share the work: what 64 clients ask for at once is fetched and judged once.
func TestFleet(t *testing.T) {
	f := newFleet(t, 3, nil)
	const clients = 64
	layers := shop(goodLodash, noise(8<<20, 1), noise(4<<20, 2), noise(1<<20, 3))
	web := f.pushSigned(t, "shop/web", layers)
	blobs := len(f.parsed(t, "shop/web", web.Digest).Blobs())
	t.Run("one cold image, 64 clients: each blob is fetched once, one judging", func(t *testing.T) {
		f.upstream.ResetRequests()
		got, took := f.pullAtOnce(t, clients, "shop/web")
		for i, p := range got {
			if p.status != http.StatusOK || p.digest != web.Digest || p.blobs != blobs {
				t.Errorf("client %d got %+v", i, p)
			}
		}
		signatures := 0
		asked := map[string]int{}
		for _, r := range f.upstream.Requests() {
			if r.Method == http.MethodGet && r.Kind == ocitest.KindBlob {
				asked[r.Reference]++
			}
		}
		for _, d := range f.parsed(t, "shop/web", web.Digest).Blobs() {
			if asked[d.Digest.String()] != 1 {
				t.Errorf("%s was asked for %d times", d.Digest, asked[d.Digest.String()])
			}
			delete(asked, d.Digest.String())
		}
		for _, n := range asked {
			signatures += n
		}
		if made := f.verdicts(t); made != 1 {
			t.Errorf("%v judgings, want one", made)
		}
		t.Logf("%d clients, %d replicas: %d blobs of the image, each fetched once; %d other blobs (its signature); 1 judging; %v", clients, len(f.replicas), blobs, signatures, took)
	})
	t.Run("what is denied is denied by all of them, by one judging", func(t *testing.T) {
		f.pushSigned(t, "shop/vulnerable", shop(badLodash))
		before := f.verdicts(t)
		got, _ := f.pullAtOnce(t, clients, "shop/vulnerable")
		for i, p := range got {
			if p.status != http.StatusForbidden {
				t.Errorf("client %d got %+v", i, p)
			}
		}
		if made := f.verdicts(t) - before; made != 1 {
			t.Errorf("%v judgings, want one", made)
		}
	})
	t.Run("three images that share layers: each layer is fetched once", func(t *testing.T) {
		base := []ocitest.LayerSpec{noise(6<<20, 11), noise(5<<20, 12)}
		for i := range 3 {
			f.pushSigned(t, fmt.Sprintf("shop/child-%d", i), shop(goodLodash, append(base, noise(1000, uint64(20+i)))...))
		}
		f.upstream.ResetRequests()
		var pulling sync.WaitGroup
		for i, p := range f.replicas {
			pulling.Go(func() {
				if got, err := client.pull(t.Context(), p.registry, fmt.Sprintf("shop/child-%d", i), "1.0"); err != nil || got.status != http.StatusOK {
					t.Errorf("replica %d: %+v, %v", i, got, err)
				}
			})
		}
		pulling.Wait()
		asked := map[string]int{}
		for _, r := range f.upstream.Requests() {
			if r.Method == http.MethodGet && r.Kind == ocitest.KindBlob {
				asked[r.Reference]++
			}
		}
		for d, n := range asked {
			if n != 1 {
				t.Errorf("%s was asked for %d times", d, n)
			}
		}
	})
}

// TestFleetLosesAReplica kills the replica that judges an image while it does: another takes over and comes to the verdict.
func TestFleetLosesAReplica(t *testing.T) {
	f := newFleet(t, 2, nil)
	web := f.pushSigned(t, "shop/web", shop(goodLodash, noise(1<<20, 1)))
	layers := f.parsed(t, "shop/web", web.Digest).Layers
	last := layers[len(layers)-1].Digest.String()
	stalled, resume := make(chan struct{}), make(chan struct{})
	f.upstream.SetIntercept(ocitest.First(1, ocitest.Gets(ocitest.KindBlob).Of(last), func(http.ResponseWriter, *http.Request) bool {
		close(stalled)
		<-resume
		return false
	}))
	defer close(resume)
	holder, other := f.replicas[0], f.replicas[1]
	go func() { _, _ = client.pull(t.Context(), holder.registry, "shop/web", "1.0") }() // which is cut off
	<-stalled
	taken := make(chan pulled, 1)
	go func() {
		got, err := client.pull(t.Context(), other.registry, "shop/web", "1.0")
		if err != nil {
			t.Error(err)
		}
		taken <- got
	}()
	eventually(t, "the other waits for it", func() bool { return len(f.redis.do(t, "KEYS", "tidewaiter:*:lease:judging:*")) == 1 })
	began := time.Now()
	holder.kill()
	if got := <-taken; got.status != http.StatusOK || got.digest != web.Digest {
		t.Errorf("got %+v", got)
	}
	t.Logf("the verdict came %v after the holder of the lease was killed", time.Since(began).Round(time.Millisecond))
	if made := f.verdicts(t); made != 1 {
		t.Errorf("%v judgings by those who live, want one", made)
	}
}

// TestFleetLosesRedis has what is asked for answered rightly while Redis is emptied again and again, stopped, filled with rubbish, and
// back.
func TestFleetLosesRedis(t *testing.T) {
	f := newFleet(t, 2, nil)
	f.pushSigned(t, "shop/vulnerable", shop(badLodash))
	images := 0
	fresh := func() string { // an image nobody knows
		images++
		repo := fmt.Sprintf("shop/fresh-%d", images)
		f.pushSigned(t, repo, shop(goodLodash, noise(10_000, uint64(images))))
		return repo
	}
	right := func(t *testing.T, repo string) {
		t.Helper()
		for i, p := range f.replicas {
			if got, err := client.pull(t.Context(), p.registry, repo, "1.0"); err != nil || got.status != http.StatusOK {
				t.Errorf("replica %d: %s: %+v, %v", i, repo, got, err)
			}
			if got, err := client.pull(t.Context(), p.registry, "shop/vulnerable", "1.0"); err != nil || got.status != http.StatusForbidden {
				t.Errorf("replica %d: shop/vulnerable: %+v, %v", i, got, err)
			}
		}
	}
	right(t, fresh())
	t.Run("emptied again and again under load", func(t *testing.T) {
		repos := make([]string, 6)
		for i := range repos {
			repos[i] = fresh()
		}
		done := make(chan struct{})
		flushes := 0
		var flushing sync.WaitGroup
		flushing.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					f.redis.do(t, "FLUSHALL")
					flushes++
				}
			}
		})
		for _, repo := range repos {
			got, _ := f.pullAtOnce(t, 8, repo)
			for i, p := range got {
				if p.status != http.StatusOK {
					t.Errorf("%s: client %d got %+v", repo, i, p)
				}
			}
			right(t, repo)
		}
		close(done)
		flushing.Wait()
		began := time.Now()
		right(t, repos[0])
		t.Logf("%d times emptied, no wrong answer; %d verdicts for %d images; four answers %v after the last time", flushes, int(f.verdicts(t)), images+1, time.Since(began).Round(time.Millisecond))
	})
	t.Run("with announcements of somebody else's making", func(t *testing.T) {
		f.redis.do(t, "PUBLISH", "tidewaiter:v1:announcements", "rubbish")
		right(t, fresh())
	})
	f.redis.kill()
	t.Run("gone", func(t *testing.T) {
		for range 3 {
			right(t, fresh())
		}
	})
	f.redis.start(t)
	t.Run("back", func(t *testing.T) {
		began := time.Now()
		eventually(t, "the replicas hear each other again", func() bool {
			right(t, fresh()) // nothing else has them ask whether it is back
			return f.redis.listeners(t) == len(f.replicas)
		})
		t.Logf("the replicas heard each other %v after Redis was back", time.Since(began).Round(time.Millisecond))
	})
}

// TestFleetDisagrees has one replica judge by other policies than the others: both say so, and neither goes by the other's verdicts.
func TestFleetDisagrees(t *testing.T) {
	f := newFleet(t, 1, nil)
	f.pushSigned(t, "shop/vulnerable", shop(badLodash))
	writeFile(t, f.path("lax.yaml"), []byte("policies:\n  - {name: lax, match: {repositories: [\"**\"]}, mode: enforce, require: {signatures: {any_of: [release]}}}\n"))
	f.config["policy_files"] = []string{f.path("lax.yaml")}
	f.join(t)
	for range 2 { // whichever judges first
		for i, want := range []int{http.StatusForbidden, http.StatusOK} {
			if got := f.replicas[i].pull(t, "shop/vulnerable"); got.status != want {
				t.Errorf("replica %d: got %+v, want %d", i, got, want)
			}
		}
	}
	for _, p := range f.replicas {
		p.log.await(t, "saying that the other judges by other policies", says("another replica judges by other policies"))
		if replicas, disagree := p.metric(t, "tidewaiter_fleet_replicas", ""), p.metric(t, "tidewaiter_fleet_disagreement", ""); replicas != 2 || disagree != 1 {
			t.Errorf("%v replicas, %v disagree, want 2 and 1", replicas, disagree)
		}
	}
}
