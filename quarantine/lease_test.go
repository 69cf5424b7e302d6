package quarantine_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
)

// leases are held by one process at a time, whatever their names. Nobody has one while broken.
type leases struct {
	mu     sync.Mutex
	names  []string // guarded by mu
	broken bool
}

// Acquire implements quarantine.Leases.
func (l *leases) Acquire(_ context.Context, name string) (release func(), err error) {
	if l.broken {
		return nil, errors.New("nobody knows")
	}
	l.mu.Lock()
	l.names = append(l.names, name)
	return l.mu.Unlock, nil
}

// TestReplicasFetchOnce has three processes over one storage asked for the same layer of an image at once.
func TestReplicasFetchOnce(t *testing.T) {
	content := bytes.Repeat([]byte("layer"), 100_000)
	for law, tt := range map[string]struct {
		leases *leases
		most   int
	}{
		"while they hold leases":                      {&leases{}, 1},
		"and each for itself when nobody knows whose": {&leases{broken: true}, 3},
	} {
		t.Run(law, func(t *testing.T) {
			root, source := t.TempDir(), newFakeSource()
			layer := source.put(repoA, content)
			c := source.image(t, repoA, layer)
			var asking sync.WaitGroup
			for range 3 {
				w := reopen(t, source, root)
				w.ShareFetches(tt.leases)
				asking.Go(func() {
					if got, err := w.readAll(t, c, layer); err != nil || !bytes.Equal(got, content) {
						t.Errorf("got %d bytes, %v", len(got), err)
					}
				})
			}
			asking.Wait()
			if got := source.count("blob"); got < 1 || got > tt.most {
				t.Errorf("the upstream was asked %d times, want at most %d", got, tt.most)
			}
		})
	}
}
