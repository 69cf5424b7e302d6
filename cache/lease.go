package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Scripts that run in Redis as one step. KEYS[1] is the key, ARGV[1] our value.
const (
	// takeScript sets the key unless it is set to something else than ARGV[3], and returns what that is.
	takeScript = `local v = redis.call('get', KEYS[1]) if v and v ~= ARGV[3] then return v end redis.call('set', KEYS[1], ARGV[1], 'PX', ARGV[2]) return ''`
	// dropScript removes the key if it is set to our value.
	dropScript = `if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0`
)

// take sets key to value for as long as ttl, unless it is set to something else than old, which is returned then.
//
// Errors: [ErrUnavailable], and whatever Redis returns.
func (r *remote) take(ctx context.Context, key string, value, old []byte, ttl time.Duration) (held []byte, err error) {
	var refusal error
	err = r.call(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		answer, err := client.Eval(ctx, takeScript, []string{key}, value, ttl.Milliseconds(), old).Text()
		if _, ok := errors.AsType[redis.Error](err); ok {
			refusal = err // a prompt answer, such as that it takes no writes
			return nil
		}
		if answer != "" {
			held = []byte(answer)
		}
		return err
	})
	return held, errors.Join(err, refusal)
}

// drop removes key if it is set to value.
func (r *remote) drop(ctx context.Context, key string, value []byte) error {
	return r.call(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		return client.Eval(ctx, dropScript, []string{key}, value).Err()
	})
}

// Lease is the right to do something that the other replicas then need not do. It guards nothing: a holder that is cut off from Redis
// keeps on, and so may another.
type Lease struct {
	f          *Fleet
	name, key  string
	token      string
	lost       chan struct{}
	stop       context.CancelFunc
	beating    sync.WaitGroup
	releasing  sync.Once
	mu         sync.Mutex
	value      []byte // guarded by mu; what the key was set to last
	beats      uint64 // guarded by mu; how often
	isAnybodys bool   // there is no Redis to hold it in
}

// Lost is closed when another replica has the lease, or may have.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Acquire waits until no other replica holds the lease on name, and returns it held. A holder that has died loses it within seconds;
// so does one that shows no sign of life, whatever lies in Redis.
//
// Errors: ctx's; [ErrUnavailable], seal.ErrBroken, others of what lies there, and whatever Redis returns: then nobody can say who holds it,
// and everybody does what is to be done.
func (f *Fleet) Acquire(ctx context.Context, name string) (*Lease, error) {
	l := &Lease{f: f, name: name, key: "tidewaiter:v1:lease:" + name, token: rand.Text(), lost: make(chan struct{})}
	if f.redis == nil {
		l.isAnybodys = true
		return l, nil
	}
	if err := l.await(ctx); err != nil {
		return nil, fmt.Errorf("acquiring the lease on %s: %w", name, err)
	}
	beating, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.beating.Go(func() { l.beat(beating) })
	return l, nil
}

// await returns nil once the lease is held.
func (l *Lease) await(ctx context.Context) (err error) {
	l.f.enter(l.name)
	defer l.f.leave(l.name)
	other := l.f.recollect(l.name)
	other.ttl = l.f.redis.wait.lease
	defer func() { l.f.recall(l.name, other, err) }()
	for {
		given := l.f.given(l.name) // before the look: what is given up after it is heard of
		held, err := l.set(ctx, other.dead(l.f.now()))
		if err != nil && overdue(ctx) != nil {
			return overdue(ctx)
		}
		if err != nil || held == nil {
			return err
		}
		if err := other.see(l, held); err != nil {
			return err
		}
		timer := time.NewTimer(l.f.redis.wait.poll)
		select {
		case <-given:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// overdue is ctx.Err, also in the moment in which a connection has seen the deadline pass and ctx has not.
func overdue(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// set sets the key to a new value, if it is not set to another one than old, or one of ours; what it is set to otherwise is returned.
func (l *Lease) set(ctx context.Context, old []byte) (held []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beats++
	value := l.f.redis.key.Seal(l.key, fmt.Appendf(nil, "%s %d", l.token, l.beats))
	if held, err = l.f.redis.take(ctx, l.key, value, old, l.f.redis.wait.lease); err == nil && held == nil {
		l.value = value
	}
	return held, err
}

// maxGone bounds the holders remembered by whoever waits. There are as many as replicas and restarts meanwhile.
const maxGone = 256

// life is what is seen of whoever holds a lease.
type life struct {
	ttl   time.Duration
	token string
	beats uint64
	value []byte
	since time.Time // when it was last seen to go on
	// gone are the tokens of those who held it before, while we waited. None takes it again.
	gone map[string]bool
}

// errReplayed says that a lease is held by one of those who lost it.
var errReplayed = errors.New("a lease that was over is in redis again")

// see notes what the lease is held by. Of two values somebody put in turn, each would seem to be the sign of life of another holder.
//
// Errors: seal.ErrBroken, errUnknownForm, errReplayed.
func (o *life) see(l *Lease, held []byte) error {
	token, beats, err := l.read(held)
	if err != nil {
		return err
	}
	if o.gone[token] {
		return errReplayed
	}
	if token != o.token && o.token != "" {
		gone := map[string]bool{o.token: true} // a new one: others who wait have the one of before
		if len(o.gone) < maxGone {
			maps.Copy(gone, o.gone)
		}
		o.gone = gone
	}
	if token != o.token || beats > o.beats {
		o.token, o.beats, o.since = token, beats, l.f.now()
	}
	o.value = held
	return nil
}

// maxLives bounds the leases whose holders are remembered by those who gave up waiting.
const maxLives = 256

// recollect returns what was seen of the holder of a lease by whoever gave up waiting for it.
func (f *Fleet) recollect(name string) life {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lives[name]
}

// recall remembers what was seen of the holder of a lease by whoever gave up waiting, for the next one to wait: whoever waits a moment
// only, and again later, would take what lies in Redis for ever for alive each time.
func (f *Fleet) recall(name string, seen life, gaveUp error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if gaveUp == nil {
		delete(f.lives, name)
		return
	}
	if len(f.lives) >= maxLives {
		clear(f.lives)
	}
	f.lives[name] = seen
}

// dead returns the value of a holder that has not gone on for as long as a lease lasts: in Redis it may last for ever.
func (o *life) dead(now time.Time) []byte {
	if o.token == "" || now.Sub(o.since) < o.ttl {
		return nil
	}
	return o.value
}

// read returns whose lease a value is, and how often it was renewed. Errors: seal.ErrBroken, errUnknownForm.
func (l *Lease) read(held []byte) (token string, beats uint64, err error) {
	plain, err := l.f.redis.key.Open(l.key, held)
	if err != nil {
		return "", 0, err
	}
	token, count, _ := strings.Cut(string(plain), " ")
	if beats, err = strconv.ParseUint(count, 10, 64); err != nil {
		return "", 0, errUnknownForm
	}
	return token, beats, nil
}

// beat renews the lease until ctx ends or another replica has it. While Redis does not answer it may be held by others too.
func (l *Lease) beat(ctx context.Context) {
	ttl := l.f.redis.wait.lease
	ticker := time.NewTicker(ttl / 4) // often enough for one that is late, or a Redis that fails over, not to end it
	defer ticker.Stop()
	renewed := l.f.now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		l.mu.Lock()
		old := l.value
		l.mu.Unlock()
		held, err := l.set(ctx, old)
		if err == nil && held != nil {
			if token, _, forged := l.read(held); forged == nil && token == l.token { // one that was set although the answer was lost
				held, err = l.set(ctx, held)
			}
		}
		switch {
		case err == nil && held == nil:
			renewed = l.f.now()
		case err == nil, l.f.now().Sub(renewed) >= ttl:
			close(l.lost)
			return
		}
	}
}

// Release gives the lease up, and tells those who wait. It may be called again.
func (l *Lease) Release() {
	if l.isAnybodys {
		return
	}
	l.releasing.Do(func() {
		l.stop()
		l.beating.Wait()
		l.mu.Lock()
		value := l.value
		l.mu.Unlock()
		ctx := context.Background() // bounded by every call
		if err := l.f.redis.drop(ctx, l.key, value); err != nil {
			return // it lapses
		}
		_ = l.f.Announce(ctx, topicReleased, []byte(l.name)) // they look again soon anyway
		l.f.wake(l.name)
	})
}

// waiters wait for one lease.
type waiters struct {
	given chan struct{} // closed, and replaced, when the lease is given up by somebody who says so
	n     int
}

// enter counts one more who waits for a lease.
func (f *Fleet) enter(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, ok := f.waiting[name]
	if !ok {
		w = &waiters{given: make(chan struct{})}
		f.waiting[name] = w
	}
	w.n++
}

func (f *Fleet) leave(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.waiting[name]; w.n > 1 {
		w.n--
		return
	}
	delete(f.waiting, name)
}

// given returns the channel those wait at who have entered.
func (f *Fleet) given(name string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting[name].given
}

func (f *Fleet) wake(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w, ok := f.waiting[name]; ok {
		close(w.given)
		w.given = make(chan struct{})
	}
}

// wakeAll has everybody who waits look again.
func (f *Fleet) wakeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.waiting {
		close(w.given)
		w.given = make(chan struct{})
	}
}
