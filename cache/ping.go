package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tidewaiter/tidewaiter/seal"
)

const (
	// pingName begins the names under which pings leave something. No verdict is called that.
	pingName = "tidewaiter:v1:ping:"
	// pingLasts is how long it stays, should whoever pings be killed before he removes it.
	pingLasts = time.Minute
	// maxPingScan is how many names a ping asks for, and maxPingOpened how many verdicts it looks at.
	maxPingScan, maxPingOpened = 100, 5
)

// Pong is what a Redis answered to being pinged.
type Pong struct {
	// Time is its clock, and At ours then.
	Time, At time.Time
	// Verdicts is how many of the verdicts there were looked at, Foreign how many of them were not sealed by the key in use: by other
	// replicas with another key, or by somebody who has none.
	Verdicts, Foreign int
}

// Ping tries everything that is asked of Redis: it answers, keeps what is put there as it was put, forgets it in time, and tells the time.
// It leaves nothing behind, and does so whether or not Redis is being left alone. Of a cluster it sees the nodes it happens upon.
//
// Errors: there is no Redis; whatever Redis returns, with what was asked.
func (c *Verdicts) Ping(ctx context.Context) (Pong, error) {
	r := c.fleet.redis
	if r == nil {
		return Pong{}, errors.New("there is no redis")
	}
	client := r.client.Load()
	if err := client.Ping(ctx).Err(); err != nil {
		return Pong{}, fmt.Errorf("connecting: %w", err)
	}
	if err := r.pingValue(ctx, client); err != nil {
		return Pong{}, err
	}
	theirs, err := client.Time(ctx).Result()
	if err != nil {
		return Pong{}, fmt.Errorf("asking for its time: %w", err)
	}
	p := Pong{Time: theirs.UTC(), At: c.now()}
	p.Verdicts, p.Foreign, err = r.countForeign(ctx, client)
	return p, err
}

// pingValue puts a value into Redis, reads it back, and removes it.
func (r *remote) pingValue(ctx context.Context, client redis.UniversalClient) (err error) {
	name, value := pingName+rand.Text(), rand.Text()
	if err := client.Set(ctx, name, r.key.Seal(name, []byte(value)), pingLasts).Err(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	defer func() {
		if removeErr := client.Del(context.WithoutCancel(ctx), name).Err(); removeErr != nil && err == nil {
			err = fmt.Errorf("removing what was written: %w", removeErr)
		}
	}()
	sealed, err := client.GetRange(ctx, name, 0, maxSealedBytes-1).Result()
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if opened, err := r.key.Open(name, []byte(sealed)); err != nil || string(opened) != value {
		return fmt.Errorf("reading back: what was written is not there: %w", seal.ErrBroken)
	}
	left, err := client.PTTL(ctx, name).Result()
	if err != nil {
		return fmt.Errorf("asking when it forgets: %w", err)
	}
	if left <= 0 || left > pingLasts {
		return errors.New("it does not forget what it was told to")
	}
	return nil
}

// countForeign looks at some of the verdicts there are.
func (r *remote) countForeign(ctx context.Context, client redis.UniversalClient) (looked, foreign int, err error) {
	names, _, err := client.Scan(ctx, 0, verdictPrefix+"*", maxPingScan).Result()
	if err != nil {
		return 0, 0, fmt.Errorf("listing verdicts: %w", err)
	}
	for _, name := range names[:min(len(names), maxPingOpened)] {
		sealed, err := client.GetRange(ctx, name, 0, maxSealedBytes-1).Result()
		switch {
		case redis.HasErrorPrefix(err, "WRONGTYPE"): // somebody put something else there
		case err != nil:
			return 0, 0, fmt.Errorf("reading a verdict: %w", err)
		case sealed == "":
			continue // it has just been forgotten
		}
		looked++
		if _, err := r.key.Open(name, []byte(sealed)); err != nil {
			foreign++
		}
	}
	return looked, foreign, nil
}
