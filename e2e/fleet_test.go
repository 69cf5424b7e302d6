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
