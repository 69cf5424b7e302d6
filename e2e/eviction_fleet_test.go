package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// counts reports whether a replica says how much is held.
func (s *server) counts(t testing.TB) bool {
	t.Helper()
	return strings.Contains(string(request(t, http.MethodGet, "http://"+s.admin+"/metrics").body), "\ntidewaiter_storage_held_bytes ")
}

// TestAFleetEvictsOnce has two replicas over one bucket hold less than is pulled through them.
func TestAFleetEvictsOnce(t *testing.T) {
	f := newFleet(t, 0, nil)
	storage, _ := f.config["storage"].(keys)
	storage["max_bytes"], storage["min_idle"] = 3*(evictedBytes+20<<10), "0s"
	const images = 6
	repo := func(i int) string { return fmt.Sprintf("shop/image-%d", i) }
	for i := range images {
		f.pushSigned(t, repo(i), shop(goodLodash, noise(evictedBytes, uint64(i))))
	}
	first := f.join(t)
	eventually(t, "the first replica counts", func() bool { return first.counts(t) })
	second := f.join(t)
	for i := range images {
		second.mustPull(t, repo(i)) // it remembers what they are
		first.mustPull(t, repo(i))
	}
	t.Run("the one that leads does, and the other serves what went all the same", func(t *testing.T) {
		// What the other fetched the first learns when it counts: it pulls until it has fetched enough itself.
		n := 0
		eventually(t, "something is evicted", func() bool {
			more := fmt.Sprintf("shop/more-%d", n)
			f.pushSigned(t, more, shop(goodLodash, noise(evictedBytes, uint64(1000+n))))
			first.mustPull(t, more)
			n++
			return first.metric(t, "tidewaiter_storage_evicted_images_total", "") >= images
		})
		if second.counts(t) || second.metric(t, "tidewaiter_storage_evicted_images_total", "") != 0 {
			t.Error("the other evicts too")
		}
		for i := range images {
			second.mustPull(t, repo(i)) // every byte is compared there
			first.mustPull(t, repo(i))
		}
	})
	t.Run("and the other takes over from it when it dies", func(t *testing.T) {
		first.kill()
		eventually(t, "the other counts", func() bool { return second.counts(t) })
		eventually(t, "no more is held than may be", func() bool {
			return second.metric(t, "tidewaiter_storage_held_bytes", "") <= second.metric(t, "tidewaiter_storage_max_bytes", "")
		})
		for i := range images {
			second.mustPull(t, repo(i))
		}
	})
}
