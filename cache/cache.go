// Package cache remembers verdicts: an LRU in this process, in front of a Redis that replicas share. It is also where they meet: one
// holds a lease on work the others then need not do, and tells them what it did.
//
// It promises to return only what was put under the very same key and still counts. Redis is neither trusted nor needed: its values
// are sealed for the key they lie under, so whoever can write to it can make Tidewaiter judge again and nothing else, and when it
// is slow or gone, requests go on without it. The package must not make, change or prolong a verdict.
package cache

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/seal"
)

// ErrUnavailable says that Redis did not answer lately and is left alone for a while.
var ErrUnavailable = errors.New("redis does not answer")

// errUnknownForm says that a verdict was sealed by us, and yet is not in the form this version writes.
var errUnknownForm = errors.New("not a verdict of this version")

// defaultEntries is enough for the images of a large fleet under one policy revision; the bytes they take are bounded apart.
const defaultEntries = 65536

// maxVerdictBytes bounds an encoded verdict. Some thousand findings are a megabyte; a verdict beyond this is made again instead.
const maxVerdictBytes = 4 << 20

// Options say how verdicts are remembered. The zero value remembers them in this process alone.
type Options struct {
	// Entries is how many verdicts are kept in memory; 0 means 65536.
	Entries int
	// TTL bounds how long after it was made a verdict is remembered, should it count for longer; 0 means as long as it counts.
	TTL time.Duration
	// RedisURL is where replicas share verdicts: redis://, rediss:// or unix://, as the Redis documentation writes them; with
	// master_name it names sentinels, with cluster=true a cluster, and either has more of them as addr. It may hold a password. Empty
	// means not at all.
	RedisURL string
	// Key seals what goes to Redis; every replica has the same. It must be set when RedisURL is.
	Key seal.Key
	// Logger gets what operators should know; nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Stats counts what became of questions since the start. Each question is one of the first three.
type Stats struct {
	// Hits were answered from memory, RedisHits by Redis, Misses not at all.
	Hits, RedisHits, Misses uint64
	// Tampered counts values found in Redis that were not sealed by us for their key.
	Tampered uint64
	// RedisErrors counts calls that Redis did not answer as it should. Calls that were not made are not counted.
	RedisErrors uint64
}

// Verdicts remembers verdicts. It implements gate.Verdicts and is safe for concurrent use. What it returns is shared and must not
// be modified.
type Verdicts struct {
	memory *memory
	redis  *remote // nil when there is none
	fleet  *Fleet
	ttl    time.Duration
	log    *slog.Logger
	now    func() time.Time

	hits, redisHits, misses, tampered, redisErrors atomic.Uint64
}

var _ gate.Verdicts = (*Verdicts)(nil)

// New returns an empty Verdicts. It does not wait for Redis: whether it answers is seen when it is asked.
func New(o Options) (*Verdicts, error) { return open(o, production, unhurried) }

func open(o Options, hurried, unhurried patience) (*Verdicts, error) {
	if o.Entries < 0 || o.TTL < 0 {
		return nil, errors.New("opening the verdict cache: a size or a time to live is negative")
	}
	v := &Verdicts{ttl: o.TTL, log: cmp.Or(o.Logger, slog.New(slog.DiscardHandler)), now: o.Now}
	if v.now == nil {
		v.now = time.Now
	}
	v.memory = newMemory(cmp.Or(o.Entries, defaultEntries), maxMemoryBytes)
	v.fleet = newFleet(v.memory, v.log, v.now)
	if o.RedisURL == "" {
		return v, nil
	}
	var err error
	if v.redis, err = openRemote(o, hurried, v.log, v.now); err == nil {
		v.fleet.redis, err = openRemote(o, unhurried, v.log, v.now)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the verdict cache: %w", err)
	}
	return v, nil
}

// Close ends the connections to Redis. Verdicts in memory stay available.
func (c *Verdicts) Close() error {
	if c.redis == nil {
		return nil
	}
	return errors.Join(c.redis.close(), c.fleet.redis.close())
}

// Stats returns the counts so far.
func (c *Verdicts) Stats() Stats {
	return Stats{
		Hits: c.hits.Load(), RedisHits: c.redisHits.Load(), Misses: c.misses.Load(),
		Tampered: c.tampered.Load(), RedisErrors: c.redisErrors.Load(),
	}
}

// Get implements gate.Verdicts.
func (c *Verdicts) Get(ctx context.Context, key gate.Key) (gate.Verdict, bool) {
	if v, since, ok := c.memory.get(key); ok && c.left(v) > 0 && c.isFresh(v, since) {
		c.hits.Add(1)
		return v, true
	}
	v, size, err := c.ask(ctx, key)
	switch {
	case errors.Is(err, seal.ErrBroken):
		c.tampered.Add(1)
		c.log.WarnContext(ctx, "a verdict in redis is not what was put there", "key", key.String())
	case errors.Is(err, errUnknownForm):
		c.log.DebugContext(ctx, "a verdict in redis is of another version of tidewaiter", "key", key.String(), "err", err)
	case err != nil && !errors.Is(err, ErrUnavailable) && ctx.Err() == nil:
		c.redisErrors.Add(1)
		c.log.DebugContext(ctx, "asking redis for a verdict", "err", err)
	}
	if err != nil || c.left(v) <= 0 || v.Amendable() {
		c.misses.Add(1)
		return gate.Verdict{}, false
	}
	c.memory.add(key, v, size, c.now())
	c.redisHits.Add(1)
	return v, true
}

// Put implements gate.Verdicts. What may be amended under its key is remembered here alone: whoever can write to Redis could put the
// admission back in the place of the denial that followed, and a Redis that does not answer just then would keep it. It refuses a verdict
// that is not of key. An error of Redis leaves the verdict remembered here.
//
// Errors: [ErrUnavailable], oci.ErrTooLarge, and whatever Redis returns.
func (c *Verdicts) Put(ctx context.Context, key gate.Key, v gate.Verdict) error {
	if v.Key != key.String() {
		return fmt.Errorf("remembering the verdict on %s: its key is not the one it is put under", v.Candidate())
	}
	left := c.left(v)
	if left <= 0 {
		return nil
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("remembering the verdict on %s: %w", v.Candidate(), err)
	}
	if len(encoded) > maxVerdictBytes {
		return fmt.Errorf("remembering the verdict on %s: %d bytes: %w", v.Candidate(), len(encoded), oci.ErrTooLarge)
	}
	c.memory.add(key, v, len(encoded), c.now())
	if c.redis == nil || v.Amendable() {
		return nil
	}
	if err := c.redis.put(ctx, key, encoded, left); err != nil {
		if !errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
			c.redisErrors.Add(1)
		}
		return fmt.Errorf("remembering the verdict on %s: %w", v.Candidate(), err)
	}
	return nil
}

// freshFor is how long a verdict that may be amended is believed without looking into the records, where other replicas write too: the
// announcement that it was may not arrive. Looking costs a listing for each image in that time.
const freshFor = 30 * time.Second

// isFresh reports whether v, remembered since then, may be believed without looking into the records.
func (c *Verdicts) isFresh(v gate.Verdict, since time.Time) bool {
	age := c.now().Sub(since)
	return c.redis == nil || !v.Amendable() || age >= 0 && age < freshFor
}

// left returns how long v may still be remembered; nothing or less when it no longer counts.
func (c *Verdicts) left(v gate.Verdict) time.Duration {
	end := v.Until
	if limit := v.JudgedAt.Add(c.ttl); c.ttl > 0 && limit.Before(end) {
		end = limit
	}
	return end.Sub(c.now())
}

// ask returns the verdict Redis holds for key and its size in bytes; the zero Verdict, which counts for no time, when it holds none.
//
// Errors: seal.ErrBroken, errUnknownForm, [ErrUnavailable], and whatever Redis returns.
func (c *Verdicts) ask(ctx context.Context, key gate.Key) (v gate.Verdict, size int, err error) {
	if c.redis == nil {
		return gate.Verdict{}, 0, nil
	}
	encoded, err := c.redis.get(ctx, key)
	if err != nil || encoded == nil {
		return gate.Verdict{}, 0, err
	}
	v, err = decode(key, encoded)
	return v, len(encoded), err
}

// decode reads what was sealed for key. A field it does not know may be a condition, so it refuses the whole.
//
// Errors: errUnknownForm, seal.ErrBroken.
func decode(key gate.Key, encoded []byte) (gate.Verdict, error) {
	d := json.NewDecoder(bytes.NewReader(encoded))
	d.DisallowUnknownFields()
	var v gate.Verdict
	if err := d.Decode(&v); err != nil {
		return gate.Verdict{}, fmt.Errorf("%w: %v", errUnknownForm, err)
	}
	if v.Key != key.String() {
		return gate.Verdict{}, fmt.Errorf("a verdict of another key: %w", seal.ErrBroken)
	}
	return v, nil
}
