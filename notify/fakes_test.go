package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidewaiter/tidewaiter/oci"
)

// memory is a Store that a restart survives if the test hands it on.
type memory struct {
	mu     sync.Mutex
	kept   []Stored // guarded by mu, as everything here
	names  int
	broken error // what keeping returns, if not nil
}

func (m *memory) Keep(_ context.Context, d Delivery) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return "", m.broken
	}
	if err := d.Check(); err != nil {
		return "", err
	}
	m.names++
	name := fmt.Sprintf("%08d", m.names)
	m.kept = append(m.kept, Stored{name, d})
	return name, nil
}

func (m *memory) Forget(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = slices.DeleteFunc(m.kept, func(k Stored) bool { return k.Name == name })
	return nil
}

func (m *memory) Kept(context.Context) ([]Stored, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.kept), nil
}

// states returns what is kept, a line each.
func (m *memory) states() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, k := range m.kept {
		all = append(all, fmt.Sprintf("%s %s attempts=%d dead=%t %s", k.Webhook, k.Subject, k.Attempts, k.Dead, k.Problem))
	}
	return all
}

// receiver stands for the other end of a webhook.
type receiver struct {
	mu sync.Mutex
	// refuse returns why an event is not taken, nil if it is; guarded by mu.
	refuse func(body string) *failure
	taken  []string // guarded by mu; the subjects, in the order they came
	asked  int      // guarded by mu
}

func (r *receiver) send(_ context.Context, _ string, body []byte) *failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.refuse != nil {
		if f := r.refuse(string(body)); f != nil {
			return f
		}
	}
	_, rest, _ := strings.Cut(string(body), `"subject":"`)
	subject, _, _ := strings.Cut(rest, `"`)
	r.taken = append(r.taken, subject)
	return nil
}

// set changes how events are received.
func (r *receiver) set(refuse func(body string) *failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = refuse
}

func (r *receiver) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.taken))
}

func down(string) *failure { return &failure{problem: "it is down"} }

var errDisk = errors.New("no space left")

// hub returns a Hub with one webhook, at whose other end is r.
func hub(t *testing.T, s Store, r *receiver, hook Webhook) *Hub {
	t.Helper()
	hook.Name, hook.URL, hook.SecretFile, hook.UnsafePrivateAddresses = "ops", "https://receiver.example/hook", "secret", true
	h, err := New(Options{Source: "urn:test", Replica: "one", Webhooks: []Webhook{hook}, Store: s, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	h.couriers[0].send = r.send
	return h
}

// running runs h, and returns what stops it and waits for its end.
func running(t *testing.T, h *Hub) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

func about(subject string) Event { return Event{Type: VerdictDenied, Subject: subject} }

func repository(t *testing.T, name string) oci.Repository {
	t.Helper()
	upstream, path := oci.SplitUpstream(name)
	repo, err := oci.NewRepository(upstream, path)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}
