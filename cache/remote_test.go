package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/tidewaiter/tidewaiter/cache/cachetest"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/seal"
)

func TestRedisObeysTheLaws(t *testing.T) {
	s := startRedis(t)
	cachetest.Run(t, func(t *testing.T, now func() time.Time) gate.Verdicts {
		if err := s.client(t).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		return openOn(t, s.url(), now, patient)
	})
}

// TestRedisAloneObeysTheLaws leaves no room in memory, so that every answer comes from Redis.
func TestRedisAloneObeysTheLaws(t *testing.T) {
	s := startRedis(t)
	cachetest.Run(t, func(t *testing.T, now func() time.Time) gate.Verdicts {
		if err := s.client(t).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		vs := openOn(t, s.url(), now, patient)
		vs.memory = newMemory(1, 0)
		return vs
	})
}

func TestReplicasShareVerdicts(t *testing.T) {
	s := startRedis(t)
	clock := &cachetest.Clock{}
	a, b := openOn(t, s.url(), clock.Now, patient), openOn(t, s.url(), clock.Now, patient)
	key, v := cachetest.NewVerdict("a")
	put(t, a, key, v)
	for range 2 {
		got, ok := b.Get(t.Context(), key)
		if diff := cmp.Diff(got, v); !ok || diff != "" {
			t.Fatalf("Get: got %v (-got +want):\n%s", ok, diff)
		}
	}
	if diff := cmp.Diff(b.Stats(), Stats{RedisHits: 1, Hits: 1}); diff != "" {
		t.Errorf("Stats (-got +want):\n%s", diff)
	}
	left, err := s.client(t).PTTL(t.Context(), name(key)).Result()
	if err != nil || left <= 0 || left > time.Hour {
		t.Errorf("redis keeps it for %v, %v, want at most the hour it counts", left, err)
	}
}

// TestWhoeverWritesToRedisAdmitsNothing covers every way to put something else where a verdict should be.
func TestWhoeverWritesToRedisAdmitsNothing(t *testing.T) {
	s := startRedis(t)
	intruder := s.client(t)
	key, v := cachetest.NewVerdict("asked for")
	other, allowed := cachetest.NewVerdict("another, admitted")
	v.Decision = gate.Deny
	sealed := func(t *testing.T, key gate.Key) string {
		t.Helper()
		got, err := intruder.Get(t.Context(), name(key)).Result()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	set := func(t *testing.T, value string) {
		t.Helper()
		if err := intruder.Set(t.Context(), name(key), value, time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	unsealed, err := json.Marshal(allowed)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := seal.NewKey([]byte("a key of the intruder's own making"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		tamper func(*testing.T)
		want   Stats
	}{
		{"an altered value", func(t *testing.T) {
			value := []byte(sealed(t, key))
			value[len(value)-1] ^= 1
			set(t, string(value))
		}, Stats{Misses: 1, Tampered: 1}},
		{"a denial turned into an admission", func(t *testing.T) {
			set(t, sealed(t, key)[:36]+string(unsealed))
		}, Stats{Misses: 1, Tampered: 1}},
		{"a value without a seal", func(t *testing.T) { set(t, string(unsealed)) }, Stats{Misses: 1, Tampered: 1}},
		{"a truncated value", func(t *testing.T) { set(t, sealed(t, key)[:50]) }, Stats{Misses: 1, Tampered: 1}},
		{"an entry moved from another key", func(t *testing.T) { set(t, sealed(t, other)) }, Stats{Misses: 1, Tampered: 1}},
		{"a value sealed with another key", func(t *testing.T) {
			set(t, string(foreign.Derive("redis").Seal(name(key), unsealed)))
		}, Stats{Misses: 1, Tampered: 1}},
		{"a value larger than any verdict", func(t *testing.T) {
			set(t, string(make([]byte, 3*maxSealedBytes)))
		}, Stats{Misses: 1, Tampered: 1}},
		{"a value of another type", func(t *testing.T) {
			if err := errors.Join(intruder.Del(t.Context(), name(key)).Err(), intruder.RPush(t.Context(), name(key), "x").Err()); err != nil {
				t.Fatal(err)
			}
		}, Stats{Misses: 1, Tampered: 1}},
		{"an empty value", func(t *testing.T) { set(t, "") }, Stats{Misses: 1}},
		{"nothing any more", func(t *testing.T) {
			if err := intruder.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}, Stats{Misses: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock := &cachetest.Clock{}
			writer, reader := openOn(t, s.url(), clock.Now, patient), openOn(t, s.url(), clock.Now, patient)
			put(t, writer, key, v)
			put(t, writer, other, allowed)
			tt.tamper(t)
			got, ok := reader.Get(t.Context(), key)
			if ok || got.Allowed() {
				t.Errorf("Get: got %v, %v, want nothing", got.Decision, ok)
			}
			if diff := cmp.Diff(reader.Stats(), tt.want); diff != "" {
				t.Errorf("Stats (-got +want):\n%s", diff)
			}
			t.Run("and putting it again heals it", func(t *testing.T) {
				put(t, writer, key, v)
				if !remembers(t, reader, key) {
					t.Error("got nothing")
				}
			})
		})
	}
}

func TestAReplayedEntryIsNotProlonged(t *testing.T) {
	s := startRedis(t)
	clock := &cachetest.Clock{}
	writer, reader := openOn(t, s.url(), clock.Now, patient), openOn(t, s.url(), clock.Now, patient)
	key, v := cachetest.NewVerdict("a")
	put(t, writer, key, v)
	if err := s.client(t).Persist(t.Context(), name(key)).Err(); err != nil { // as whoever replays it would
		t.Fatal(err)
	}
	clock.Pass(time.Hour)
	if remembers(t, reader, key) {
		t.Error("got a verdict past its time")
	}
	if diff := cmp.Diff(reader.Stats(), Stats{Misses: 1}); diff != "" {
		t.Errorf("Stats (-got +want):\n%s", diff)
	}
}

// TestSealedByUsIsNotEnough puts what only a holder of the key can: the seal holds, what it seals does not fit.
func TestSealedByUsIsNotEnough(t *testing.T) {
	s := startRedis(t)
	key, v := cachetest.NewVerdict("a")
	_, another := cachetest.NewVerdict("b")
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	withCondition := struct {
		gate.Verdict
		OnlyOnTuesdays bool `json:"only_on_tuesdays"`
	}{v, true}
	tests := []struct {
		name  string
		value []byte
		want  Stats
	}{
		{"a verdict of another key", encode(another), Stats{Misses: 1, Tampered: 1}},
		{"a field this version does not know", encode(withCondition), Stats{Misses: 1}},
		{"something else", []byte(`"allow"`), Stats{Misses: 1}},
		{"a value that breaks off", encode(v)[:40], Stats{Misses: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vs := openOn(t, s.url(), (&cachetest.Clock{}).Now, patient)
			if err := vs.redis.put(t.Context(), key, tt.value, time.Hour); err != nil {
				t.Fatal(err)
			}
			if remembers(t, vs, key) {
				t.Error("got a verdict")
			}
			if diff := cmp.Diff(vs.Stats(), tt.want); diff != "" {
				t.Errorf("Stats (-got +want):\n%s", diff)
			}
		})
	}
}

// TestRedisDiesAndComesBack follows one replica through a crash of Redis.
func TestRedisDiesAndComesBack(t *testing.T) {
	s := startRedis(t)
	clock := &cachetest.Clock{}
	vs := openOn(t, s.url(), clock.Now, patient)
	known, v := cachetest.NewVerdict("known")
	put(t, vs, known, v)
	s.kill()

	unknown, u := cachetest.NewVerdict("unknown")
	for range failuresToOpen {
		if remembers(t, vs, unknown) {
			t.Fatal("got a verdict nobody put")
		}
	}
	failed := vs.Stats().RedisErrors
	if got, want := failed, uint64(failuresToOpen); got != want {
		t.Errorf("errors until redis is left alone: got %d, want %d", got, want)
	}
	if !remembers(t, vs, known) {
		t.Error("what memory holds is gone with redis")
	}
	if err := vs.Put(t.Context(), unknown, u); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Put: got %v, want ErrUnavailable", err)
	}
	if !remembers(t, vs, unknown) {
		t.Error("what could not be put to redis is not remembered here")
	}

	t.Run("while it is dead only probes go there", func(t *testing.T) {
		third, _ := cachetest.NewVerdict("third")
		for range 5 {
			clock.Pass(probeInterval)
			remembers(t, vs, third)
			vs.redis.probes.Wait()
		}
		if got := vs.Stats().RedisErrors; got != failed {
			t.Errorf("errors: got %d, want still %d", got, failed)
		}
	})
	t.Run("and when it is back it is used again", func(t *testing.T) {
		s.start(t)
		clock.Pass(probeInterval)
		other := openOn(t, s.url(), clock.Now, patient)
		shared, w := cachetest.NewVerdict("shared")
		put(t, other, shared, w)
		remembers(t, vs, shared) // starts the probe
		vs.redis.probes.Wait()
		if !remembers(t, vs, shared) {
			t.Error("got nothing, want what the other replica put")
		}
		key, v := cachetest.NewVerdict("after")
		put(t, vs, key, v)
		if !remembers(t, other, key) {
			t.Error("the other replica does not see what was put")
		}
	})
}

// TestIdleConnectionsOfBeforeARestartCostNothing fails if each dead connection of the pool were found out by a failing call.
func TestIdleConnectionsOfBeforeARestartCostNothing(t *testing.T) {
	s := startRedis(t)
	vs := openOn(t, s.url(), (&cachetest.Clock{}).Now, patient)
	key, v := cachetest.NewVerdict("a")
	put(t, vs, key, v)
	s.kill()
	s.start(t)
	other, w := cachetest.NewVerdict("b")
	put(t, vs, other, w)
	if got := vs.Stats().RedisErrors; got != 0 {
		t.Errorf("errors: got %d, want none", got)
	}
}

func TestARedisThatHangsIsLeftAlone(t *testing.T) {
	l := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	clock := &cachetest.Clock{}
	vs := openOn(t, l.url(), clock.Now, production)
	key, _ := cachetest.NewVerdict("a")
	for range 100 {
		if remembers(t, vs, key) {
			t.Fatal("got a verdict")
		}
	}
	if diff := cmp.Diff(vs.Stats(), Stats{Misses: 100, RedisErrors: failuresToOpen}); diff != "" {
		t.Errorf("Stats (-got +want):\n%s", diff)
	}
	if got := len(l.accepted); got > failuresToOpen {
		t.Errorf("connections: got %d, want at most %d", got, failuresToOpen)
	}
}

// TestARedisThatLiesAboutLengths fails by ending the process if announced lengths were believed.
func TestARedisThatLiesAboutLengths(t *testing.T) {
	for name, reply := range map[string]string{
		"more than any memory holds": "$9223372036854775807\r\n",
		"a length beyond numbers":    "$99999999999999999999\r\n",
		"an endless array":           "*9223372036854775807\r\n",
		"a bottomless array":         strings.Repeat("*1\r\n", 1<<20),
		"an endless line":            strings.Repeat("+", 1<<20),
		"a negative length":          "$-2\r\n",
		"another protocol":           "HTTP/1.1 400 Bad Request\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, func(c net.Conn) { answer(c, reply) })
			vs := openOn(t, l.url(), (&cachetest.Clock{}).Now, patient)
			key, _ := cachetest.NewVerdict("a")
			if remembers(t, vs, key) {
				t.Error("got a verdict")
			}
			if diff := cmp.Diff(vs.Stats(), Stats{Misses: 1, RedisErrors: 1}); diff != "" {
				t.Errorf("Stats (-got +want):\n%s", diff)
			}
		})
	}
}

// answer declines the library's greeting, as an old Redis does, and answers everything else with reply.
func answer(c net.Conn, reply string) {
	request := make([]byte, 4<<10)
	for {
		n, err := c.Read(request)
		if err != nil {
			return
		}
		if strings.Contains(strings.ToLower(string(request[:n])), "hello") {
			_, _ = io.WriteString(c, "-ERR unknown command\r\n")
			continue
		}
		_, _ = io.WriteString(c, reply)
	}
}

// TestTheLiarOfTheTestIsBelievedWhenItTellsTheTruth makes sure that it gets to be asked.
func TestTheLiarOfTheTestIsBelievedWhenItTellsTheTruth(t *testing.T) {
	key, v := cachetest.NewVerdict("a")
	encoded, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	sealed := testKey(t).Derive("redis").Seal(name(key), encoded)
	l := listen(t, func(c net.Conn) { answer(c, fmt.Sprintf("$%d\r\n%s\r\n", len(sealed), sealed)) })
	if !remembers(t, openOn(t, l.url(), (&cachetest.Clock{}).Now, patient), key) {
		t.Error("got nothing")
	}
}

func TestAClientThatLeavesDoesNotCountAgainstRedis(t *testing.T) {
	s := startRedis(t)
	vs := openOn(t, s.url(), (&cachetest.Clock{}).Now, patient)
	key, v := cachetest.NewVerdict("a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range failuresToOpen + 1 {
		if _, ok := vs.Get(ctx, key); ok {
			t.Fatal("got a verdict")
		}
	}
	if diff := cmp.Diff(vs.Stats(), Stats{Misses: failuresToOpen + 1}); diff != "" {
		t.Errorf("Stats (-got +want):\n%s", diff)
	}
	put(t, vs, key, v) // which fails if redis is left alone
}

func TestARedisThatRefusesWritesStillAnswers(t *testing.T) {
	s := startRedis(t)
	clock := &cachetest.Clock{}
	vs, reader := openOn(t, s.url(), clock.Now, patient), openOn(t, s.url(), clock.Now, patient)
	key, v := cachetest.NewVerdict("a")
	put(t, vs, key, v)
	if err := s.client(t).ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	other, w := cachetest.NewVerdict("b")
	for range failuresToOpen + 1 {
		err := reader.Put(t.Context(), other, w)
		if _, refused := errors.AsType[redis.Error](err); !refused {
			t.Fatalf("Put: got %v, want what redis said", err)
		}
	}
	if !remembers(t, reader, key) {
		t.Error("got nothing, want what redis still holds")
	}
}

func TestCloseEndsTheUseOfRedis(t *testing.T) {
	s := startRedis(t)
	clock := &cachetest.Clock{}
	vs := openOn(t, s.url(), clock.Now, patient)
	key, v := cachetest.NewVerdict("a")
	put(t, vs, key, v)
	if err := vs.Close(); err != nil {
		t.Fatal(err)
	}
	if !remembers(t, vs, key) {
		t.Error("memory is gone with redis")
	}
	other, w := cachetest.NewVerdict("b")
	if err := vs.Put(t.Context(), other, w); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Put: got %v, want ErrUnavailable", err)
	}
}
