package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Delivery is an event that could not be delivered to a webhook at once: one that is to be tried again, or a dead letter.
type Delivery struct {
	// Webhook is its name, Replica the process that tries again.
	Webhook string `json:"webhook"`
	Replica string `json:"replica"`
	// EventID, Type and Subject are those of the event, and Body is the event.
	EventID string          `json:"event_id"`
	Type    Type            `json:"type"`
	Subject string          `json:"subject,omitempty"`
	Body    json.RawMessage `json:"body"`
	// Attempts is how many there were since it was last asked for, and FailedAt when the first of all of them failed.
	Attempts int       `json:"attempts"`
	FailedAt time.Time `json:"failed_at"`
	// Due is when it is tried again; of no meaning once it is Dead.
	Due time.Time `json:"due"`
	// Problem is why the last attempt failed, empty if there was none.
	Problem string `json:"problem,omitempty"`
	Dead    bool   `json:"dead,omitempty"`
}

// Check returns what is wrong with a delivery that was kept.
func (d Delivery) Check() error {
	if d.Webhook == "" || d.EventID == "" || len(d.Body) == 0 {
		return errors.New("it is not of an event to a webhook")
	}
	return nil
}

// Stored is a delivery under the name it is kept by.
type Stored struct {
	Name string `json:"name"`
	Delivery
}

// Store keeps deliveries, durably. Implementations are safe for concurrent use, also beside others with the same deliveries.
type Store interface {
	// Keep keeps d under a name that no other gets and that sorts by time. When it returns nil a restart does not lose d.
	Keep(ctx context.Context, d Delivery) (name string, err error)
	// Forget forgets what is kept under name; that there is no such name is no error.
	Forget(ctx context.Context, name string) error
	// Kept returns everything that is kept, sorted by name. What is not believed is left out.
	Kept(ctx context.Context) ([]Stored, error)
}

// backoff is how long is waited after each attempt that failed, give or take half. After the last of them, some nine hours later, an
// event is a dead letter: somebody had a night's sleep meanwhile, and the receiver was restarted if that helped.
var backoff = []time.Duration{2 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour}

// wait returns how long is waited after that many attempts failed; ok is false when there is no further one.
func wait(attempts int, after time.Duration) (_ time.Duration, ok bool) {
	if attempts > len(backoff) {
		return 0, false
	}
	step := backoff[max(attempts, 1)-1]
	return max(step/2+rand.N(step+1), after), true
}

// ErrNoLetter says that there is no dead letter of that name, or not any more.
var ErrNoLetter = errors.New("there is no such dead letter")

// DeadLetters returns the dead letters of all webhooks, oldest first.
func (h *Hub) DeadLetters(ctx context.Context) ([]Stored, error) {
	if h.o.Store == nil {
		return nil, nil
	}
	kept, err := h.o.Store.Kept(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking up dead letters: %w", err)
	}
	var dead []Stored
	for _, k := range latest(kept) {
		if k.Dead {
			dead = append(dead, k)
		}
	}
	return dead, nil
}

// Redeliver has the dead letter of that name delivered anew, by attempts as if it were new.
//
// Errors: [ErrNoLetter], also when its webhook is not configured any more; whatever the store returns.
func (h *Hub) Redeliver(ctx context.Context, name string) error {
	letter, c, err := h.letter(ctx, name)
	if err != nil {
		return err
	}
	if c == nil {
		return fmt.Errorf("the webhook %s is not configured any more: %w", letter.Webhook, ErrNoLetter)
	}
	d := letter.Delivery
	d.Dead, d.Attempts, d.Due, d.Replica = false, 0, h.o.Now().UTC(), h.o.Replica
	renamed, err := h.o.Store.Keep(ctx, d)
	if err == nil {
		err = h.o.Store.Forget(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("having %s delivered again: %w", name, err)
	}
	c.revive(Stored{renamed, d})
	return nil
}

// Drop forgets the dead letter of that name.
//
// Errors: [ErrNoLetter], whatever the store returns.
func (h *Hub) Drop(ctx context.Context, name string) error {
	_, c, err := h.letter(ctx, name)
	if err != nil {
		return err
	}
	if err := h.o.Store.Forget(ctx, name); err != nil {
		return fmt.Errorf("dropping %s: %w", name, err)
	}
	if c != nil {
		c.buried()
	}
	return nil
}

// letter returns the dead letter of that name, and who delivers to its webhook; nobody when that is not configured any more.
func (h *Hub) letter(ctx context.Context, name string) (Stored, *courier, error) {
	dead, err := h.DeadLetters(ctx)
	if err != nil {
		return Stored{}, nil, err
	}
	for _, k := range dead {
		if k.Name != name {
			continue
		}
		for _, c := range h.couriers {
			if c.hook.name() == k.Webhook {
				return k, c, nil
			}
		}
		return k, nil, nil
	}
	return Stored{}, nil, ErrNoLetter
}

// latest leaves out of kept, which is sorted by name, what something later was kept about: whoever keeps the next state of a delivery
// may die before it forgets the one before.
func latest(kept []Stored) []Stored {
	type key struct{ webhook, event string }
	at := map[key]int{}
	var all []Stored
	for _, k := range kept {
		same := key{k.Webhook, k.EventID}
		if i, ok := at[same]; ok {
			all[i] = k
			continue
		}
		at[same] = len(all)
		all = append(all, k)
	}
	return all
}
