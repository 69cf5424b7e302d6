package cache

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/cache/cachetest"
	"github.com/tidewaiter/tidewaiter/gate"
)

// amendable returns an admission that malware may be found in later, and the denial that it is then.
func amendable(seed string) (key gate.Key, before, after gate.Verdict) {
	key, before = cachetest.NewVerdict(seed)
	before.MalwareDatabase, before.MalwareAt = "d1", cachetest.Epoch
	after = before
	after.Decision, after.MalwareDatabase, after.Reasons = gate.Deny, "d2", []gate.Reason{{Rule: gate.RuleMalware, Message: "malware"}}
	return key, before, after
}

// TestAnAmendedVerdictDoesNotComeBack covers what can be in the place of a denial that was made under the key of an admission.
func TestAnAmendedVerdictDoesNotComeBack(t *testing.T) {
	s := startRedis(t)
	incomplete := func(v gate.Verdict) gate.Verdict {
		v.MalwareDatabase, v.MalwareAt, v.Complete = "", time.Time{}, false
		return v
	}
	for law, admission := range map[string]func(gate.Verdict) gate.Verdict{
		"of an image looked into for malware": func(v gate.Verdict) gate.Verdict { return v },
		"of one not looked into to the end":   incomplete,
	} {
		t.Run(law, func(t *testing.T) {
			clock := &cachetest.Clock{}
			a, b := openOn(t, s.url(), clock.Now, patient), openOn(t, s.url(), clock.Now, patient)
			key, before, after := amendable(law)
			before = admission(before)
			put(t, a, key, before)
			if got, ok := b.Get(t.Context(), key); ok {
				t.Errorf("another replica has it from Redis: %s", got.Decision)
			}
			if !remembers(t, a, key) {
				t.Error("it is not remembered where it was made")
			}
			put(t, b, key, before)
			put(t, a, key, after)
			if got, ok := a.Get(t.Context(), key); !ok || got.Allowed() {
				t.Errorf("where it was amended: got %v, %s", ok, got.Decision)
			}
			clock.Pass(freshFor)
			if got, ok := b.Get(t.Context(), key); ok && got.Allowed() {
				t.Error("a replica that heard nothing of it believes the admission still")
			}
		})
	}
	t.Run("also when somebody puts the admission back", func(t *testing.T) {
		key, before, after := amendable("replayed")
		vs := openOn(t, s.url(), (&cachetest.Clock{}).Now, patient)
		put(t, vs, key, after)
		// Sealed by us: by one of an earlier version, which put it there.
		encoded, err := json.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		if err := vs.redis.put(t.Context(), key, encoded, time.Hour); err != nil {
			t.Fatal(err)
		}
		if got, ok := openOn(t, s.url(), (&cachetest.Clock{}).Now, patient).Get(t.Context(), key); ok {
			t.Errorf("got %s", got.Decision)
		}
	})
}

func TestWithoutRedisWhatMayBeAmendedIsRememberedAsLongAsItCounts(t *testing.T) {
	clock := &cachetest.Clock{}
	vs := inMemory(t, Options{Now: clock.Now})
	key, before, _ := amendable("a")
	put(t, vs, key, before)
	clock.Pass(time.Hour - 1)
	if !remembers(t, vs, key) {
		t.Error("it was forgotten: nobody else could have amended it")
	}
}
