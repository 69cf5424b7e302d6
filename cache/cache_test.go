package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/cache/cachetest"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

func inMemory(t *testing.T, o Options) *Verdicts {
	t.Helper()
	v, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func put(t *testing.T, vs *Verdicts, key gate.Key, v gate.Verdict) {
	t.Helper()
	if err := vs.Put(t.Context(), key, v); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

// remembers reports whether vs has a verdict under key.
func remembers(t *testing.T, vs *Verdicts, key gate.Key) bool {
	t.Helper()
	_, ok := vs.Get(t.Context(), key)
	return ok
}

func TestMemoryObeysTheLaws(t *testing.T) {
	cachetest.Run(t, func(t *testing.T, now func() time.Time) gate.Verdicts { return inMemory(t, Options{Now: now}) })
}

func TestPutRefusesAVerdictOfAnotherKey(t *testing.T) {
	vs := inMemory(t, Options{Now: (&cachetest.Clock{}).Now})
	key, v := cachetest.NewVerdict("a")
	other, _ := cachetest.NewVerdict("b")
	if err := vs.Put(t.Context(), other, v); err == nil {
		t.Error("Put under another key: got no error")
	}
	if remembers(t, vs, other) || remembers(t, vs, key) {
		t.Error("the verdict is remembered nevertheless")
	}
}

func TestTTLBoundsWhatIsRemembered(t *testing.T) {
	clock := &cachetest.Clock{}
	vs := inMemory(t, Options{TTL: 10 * time.Minute, Now: clock.Now})
	key, v := cachetest.NewVerdict("a")
	put(t, vs, key, v)
	clock.Pass(10*time.Minute - 1)
	if !remembers(t, vs, key) {
		t.Error("just before the TTL: got nothing")
	}
	clock.Pass(1)
	if remembers(t, vs, key) {
		t.Error("at the TTL: got a verdict")
	}
	t.Run("and is counted from when the verdict was made", func(t *testing.T) {
		put(t, vs, key, v)
		if remembers(t, vs, key) {
			t.Error("putting an old verdict again prolonged it")
		}
	})
}

func TestTTLDoesNotProlong(t *testing.T) {
	clock := &cachetest.Clock{}
	vs := inMemory(t, Options{TTL: 2 * time.Hour, Now: clock.Now})
	key, v := cachetest.NewVerdict("a") // which counts for an hour
	put(t, vs, key, v)
	clock.Pass(time.Hour)
	if remembers(t, vs, key) {
		t.Error("got a verdict past its time")
	}
}

func TestTheLeastRecentlyUsedIsForgottenFirst(t *testing.T) {
	vs := inMemory(t, Options{Entries: 2, Now: (&cachetest.Clock{}).Now})
	a, va := cachetest.NewVerdict("a")
	b, vb := cachetest.NewVerdict("b")
	c, vc := cachetest.NewVerdict("c")
	put(t, vs, a, va)
	put(t, vs, b, vb)
	remembers(t, vs, a)
	put(t, vs, c, vc)
	got := []bool{remembers(t, vs, a), remembers(t, vs, b), remembers(t, vs, c)}
	if diff := cmp.Diff(got, []bool{true, false, true}); diff != "" {
		t.Errorf("remembered of a, b, c (-got +want):\n%s", diff)
	}
}

func TestMemoryIsBoundedInBytes(t *testing.T) {
	const each = entryBytes + expansion*1000
	m := newMemory(100, 3*each)
	keys := make([]gate.Key, 5)
	for i := range keys {
		key, v := cachetest.NewVerdict(string(rune('a' + i)))
		keys[i] = key
		m.add(key, v, 1000, cachetest.Epoch)
		m.add(key, v, 1000, cachetest.Epoch) // putting again takes nothing more
	}
	var got []bool
	for _, key := range keys {
		_, _, ok := m.get(key)
		got = append(got, ok)
	}
	if diff := cmp.Diff(got, []bool{false, false, true, true, true}); diff != "" {
		t.Errorf("remembered (-got +want):\n%s", diff)
	}
	if got, want := m.bytes, int64(3*each); got != want {
		t.Errorf("bytes: got %d, want %d", got, want)
	}
	t.Run("and what is larger than all of it is not kept, nor does it push others out", func(t *testing.T) {
		key, v := cachetest.NewVerdict("large")
		m.add(key, v, 3*each, cachetest.Epoch)
		if _, _, ok := m.get(key); ok || m.lru.Len() != 3 {
			t.Errorf("got %v and %d entries, want none of it and the 3 others", ok, m.lru.Len())
		}
	})
}

func TestPutRefusesWhatIsTooLarge(t *testing.T) {
	vs := inMemory(t, Options{Now: (&cachetest.Clock{}).Now})
	key, v := cachetest.NewVerdict("a")
	v.Policy = strings.Repeat("p", maxVerdictBytes)
	if err := vs.Put(t.Context(), key, v); !errors.Is(err, oci.ErrTooLarge) {
		t.Errorf("Put: got %v, want oci.ErrTooLarge", err)
	}
	if remembers(t, vs, key) {
		t.Error("it is remembered nevertheless")
	}
}

func TestStatsCountEachQuestionOnce(t *testing.T) {
	vs := inMemory(t, Options{Now: (&cachetest.Clock{}).Now})
	key, v := cachetest.NewVerdict("a")
	remembers(t, vs, key)
	put(t, vs, key, v)
	remembers(t, vs, key)
	remembers(t, vs, key)
	if diff := cmp.Diff(vs.Stats(), Stats{Hits: 2, Misses: 1}); diff != "" {
		t.Errorf("Stats (-got +want):\n%s", diff)
	}
}

func TestNewRefuses(t *testing.T) {
	const password = "hunter2"
	key := testKey(t)
	tests := []struct {
		name    string
		options Options
	}{
		{"redis without a seal key", Options{RedisURL: "redis://127.0.0.1"}},
		{"an unknown scheme", Options{Key: key, RedisURL: "http://:" + password + "@127.0.0.1"}},
		{"a malformed url", Options{Key: key, RedisURL: "redis://:" + password + "@127.0.0.1:port"}},
		{"an unknown option", Options{Key: key, RedisURL: "redis://:" + password + "@127.0.0.1?" + password + "=1"}},
		{"a server that is not verified", Options{Key: key, RedisURL: "rediss://127.0.0.1?skip_verify=true"}},
		{"a negative size", Options{Entries: -1}},
		{"a negative time to live", Options{TTL: -1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := New(tt.options)
			if err == nil || got != nil {
				t.Fatalf("New: got %v, %v, want an error", got, err)
			}
			if strings.Contains(err.Error(), password) {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestOpeningDoesNotLogThePassword(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	vs, err := New(Options{RedisURL: "redis://user:hunter2@127.0.0.1:1", Key: testKey(t), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	key, _ := cachetest.NewVerdict("a")
	for range failuresToOpen {
		remembers(t, vs, key)
	}
	if err := vs.Close(); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	if strings.Contains(got, "hunter2") {
		t.Errorf("the log tells the password: %s", got)
	}
	for _, want := range []string{"level=WARN msg=\"redis does not answer", "level=DEBUG msg=\"redis library\""} {
		if !strings.Contains(got, want) {
			t.Errorf("log: got %s, want %s in it", got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	key, v := cachetest.NewVerdict("a")
	encoded, err := json.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded)
	f.Add([]byte(`{"decision":"allow"}`))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		got, err := decode(key, encoded)
		if err != nil {
			if got.Allowed() {
				t.Fatalf("got an admission and %v", err)
			}
			return
		}
		if got.Key != key.String() {
			t.Fatalf("got a verdict of key %q", got.Key)
		}
	})
}
