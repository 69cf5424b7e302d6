package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/seal"
)

// patience is how long Redis is waited for. probe is for what no request waits for; 0 means as long as call.
type patience struct {
	dial, answer, call, probe time.Duration
	// lease is how long a lease lasts that nobody renews, and poll how often those who wait for it look, should the word that it was
	// given up not reach them.
	lease, poll time.Duration
}

// production is what a request may lose to Redis at most. It answers in 10 µs on the same machine and in a millisecond across a
// data centre; judging again what it would have known takes longer than this, but a request that waits for every replica's
// trouble would take longer still.
var production = patience{
	dial:   100 * time.Millisecond, // with TLS
	answer: 50 * time.Millisecond,
	call:   150 * time.Millisecond, // all of it
	probe:  time.Second,            // with asking sentinels, or one node after the other
}

// unhurried is for what replicas tell each other. A judging takes seconds: it is worth waiting longer not to do it twice, and a Redis
// that does not answer at all is left alone after three times.
var unhurried = patience{
	dial:   500 * time.Millisecond,
	answer: time.Second,
	call:   2 * time.Second,
	lease:  5 * time.Second, // the others wait as long when a holder is killed
	poll:   250 * time.Millisecond,
}

// maxSealedBytes bounds what is read of a value: an encoded verdict and its seal.
const maxSealedBytes = maxVerdictBytes + 1<<10

// client is a Redis, or several that stand for one.
type client struct{ redis.UniversalClient }

// remote is a Redis that may be slow, gone or lying. It is safe for concurrent use.
type remote struct {
	connect func() redis.UniversalClient
	key     seal.Key
	log     *slog.Logger
	now     func() time.Time
	wait    patience

	client  atomic.Pointer[client]
	breaker breaker
	probes  sync.WaitGroup
}

func openRemote(o Options, p patience, log *slog.Logger, now func() time.Time) (*remote, error) {
	if o.Key.IsZero() {
		return nil, errors.New("redis needs a seal key")
	}
	connect, err := parseDeployment(o.RedisURL, p)
	if err != nil {
		return nil, err
	}
	// The library has one logger for the whole process and no other place to set it; it would write to stderr past ours.
	redis.SetLogger(libraryLog{log})
	r := &remote{connect: connect, key: o.Key.Derive("redis"), log: log, now: now, wait: p}
	r.client.Store(&client{connect()})
	return r, nil
}

// verdictPrefix begins the names of verdicts in Redis.
const verdictPrefix = "tidewaiter:v1:verdict:"

// name returns what the verdict of key is called in Redis. It is also what its seal is bound to.
func name(key gate.Key) string { return verdictPrefix + key.String() }

// get returns the encoded verdict that was put under key, nil when there is none.
//
// Errors: seal.ErrBroken, [ErrUnavailable], and whatever Redis returns.
func (r *remote) get(ctx context.Context, key gate.Key) ([]byte, error) {
	var sealed string
	var misplaced bool
	err := r.call(ctx, func(ctx context.Context, client redis.UniversalClient) (err error) {
		sealed, err = client.GetRange(ctx, name(key), 0, maxSealedBytes-1).Result() // whatever is longer loses its seal
		misplaced = redis.HasErrorPrefix(err, "WRONGTYPE")
		if misplaced {
			return nil // a prompt answer: somebody put something else there
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case misplaced:
		return nil, seal.ErrBroken
	case sealed == "":
		return nil, nil
	}
	return r.key.Open(name(key), []byte(sealed))
}

// put keeps an encoded verdict for as long as it is left to count.
//
// Errors: [ErrUnavailable], and whatever Redis returns.
func (r *remote) put(ctx context.Context, key gate.Key, encoded []byte, left time.Duration) error {
	if left < time.Millisecond {
		return nil // less than Redis can express
	}
	var refusal error
	err := r.call(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		err := client.Set(ctx, name(key), r.key.Seal(name(key), encoded), left).Err()
		if _, ok := errors.AsType[redis.Error](err); ok {
			refusal = err // read-only or out of memory, yet able to answer questions
			return nil
		}
		return err
	})
	return errors.Join(err, refusal)
}

// call lets f use Redis unless the breaker is open. Whatever error f returns counts against Redis, except when it is the caller
// who gave up.
func (r *remote) call(ctx context.Context, f func(context.Context, redis.UniversalClient) error) error {
	if !r.breaker.admit(r.now(), func() { r.probes.Go(r.probe) }) {
		return ErrUnavailable
	}
	bounded, cancel := context.WithTimeout(ctx, r.wait.call)
	defer cancel()
	err := f(bounded, r.client.Load())
	if err != nil && ctx.Err() != nil {
		return err
	}
	if r.breaker.report(err == nil, r.now()) {
		r.log.WarnContext(ctx, "redis does not answer, going on without it", "err", err)
	}
	return err
}

// probe asks whether Redis is back, apart from any request, and over new connections: those of before may be dead.
func (r *remote) probe() {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(r.wait.probe, r.wait.call))
	defer cancel()
	fresh := &client{r.connect()}
	if err := fresh.Ping(ctx).Err(); err != nil {
		_ = fresh.Close() // it has nothing to lose
		r.breaker.probed(false, r.now())
		return
	}
	_ = r.client.Swap(fresh).Close()
	r.breaker.probed(true, r.now())
	r.log.InfoContext(ctx, "redis answers again")
}

func (r *remote) close() error {
	r.breaker.shut()
	r.probes.Wait()
	if err := r.client.Load().Close(); err != nil {
		return fmt.Errorf("closing redis: %w", err)
	}
	return nil
}

// libraryLog takes what the Redis library logs, which repeats the errors it also returns.
type libraryLog struct{ log *slog.Logger }

// Printf implements the library's logging interface.
func (l libraryLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "redis library", "message", strings.TrimSpace(fmt.Sprintf(format, args...)))
}
