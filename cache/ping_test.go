package cache

import (
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/cache/cachetest"
	"github.com/tidewaiter/tidewaiter/seal"
)

func TestPing(t *testing.T) {
	s := startRedis(t)
	verdicts := openOn(t, s.url(), time.Now, patient)
	t.Run("tells the time and leaves nothing behind", func(t *testing.T) {
		got, err := verdicts.Ping(t.Context())
		if err != nil || got.Verdicts != 0 || got.At.Sub(got.Time).Abs() > time.Hour {
			t.Errorf("got %+v, %v", got, err)
		}
		if left, err := s.client(t).Keys(t.Context(), "*").Result(); err != nil || len(left) > 0 {
			t.Errorf("it left %v, %v", left, err)
		}
	})
	t.Run("knows the verdicts of its own key from others", func(t *testing.T) {
		other, err := seal.NewKey([]byte("another seal key than that, 32 bytes or more"))
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := open(Options{RedisURL: s.url(), Key: other, Now: time.Now}, patient, patient)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stranger.Close() })
		clock := &cachetest.Clock{}
		own := openOn(t, s.url(), clock.Now, patient)
		key, v := cachetest.NewVerdict("own")
		put(t, own, key, v)
		if got, err := own.Ping(t.Context()); err != nil || got.Verdicts != 1 || got.Foreign != 0 {
			t.Errorf("got %+v, %v", got, err)
		}
		if got, err := stranger.Ping(t.Context()); err != nil || got.Verdicts != 1 || got.Foreign != 1 {
			t.Errorf("by another key: got %+v, %v", got, err)
		}
	})
	t.Run("counts what is no verdict", func(t *testing.T) {
		if err := s.client(t).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.client(t).LPush(t.Context(), verdictPrefix+"x", "y").Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := verdicts.Ping(t.Context()); err != nil || got.Foreign != 1 {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("says what Redis refuses", func(t *testing.T) {
		if err := s.client(t).ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := verdicts.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "writing: OOM") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("says that Redis is gone", func(t *testing.T) {
		s.kill()
		if _, err := verdicts.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "connecting: ") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("needs a Redis", func(t *testing.T) {
		alone, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := alone.Ping(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}
