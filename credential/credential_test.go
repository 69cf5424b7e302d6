package credential

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clock is a time that only tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func newClock() *clock { return &clock{now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// script is a source that does what its steps say, one after the other.
type script struct {
	steps []func() (Credential, error)
	asked int
}

func (s *script) Credential(context.Context) (Credential, error) {
	step := s.steps[min(s.asked, len(s.steps)-1)]
	s.asked++
	return step()
}

var errGone = errors.New("the vault is closed")

func TestCacheKeepsACredentialUntilShortlyBeforeItsEnd(t *testing.T) {
	c := newClock()
	gives := func(name string, lifetime time.Duration) func() (Credential, error) {
		return func() (Credential, error) {
			until := time.Time{}
			if lifetime != 0 {
				until = c.Now().Add(lifetime)
			}
			return Credential{Username: "u", Password: name, Until: until}, nil
		}
	}
	fails := func() (Credential, error) { return Credential{}, errGone }
	type step struct {
		pass    time.Duration
		want    string // the password; empty for a failure
		fetches int
	}
	for name, tc := range map[string]struct {
		source []func() (Credential, error)
		steps  []step
	}{
		"one that says its end": {
			[]func() (Credential, error){gives("one", time.Hour), gives("two", time.Hour)},
			[]step{{0, "one", 1}, {time.Hour - refreshBefore - 1, "one", 1}, {1, "two", 2}, {time.Minute, "two", 2}},
		},
		"one that does not": {
			[]func() (Credential, error){gives("one", 0), gives("two", 0)},
			[]step{{0, "one", 1}, {unsaidLifetime - refreshBefore - 1, "one", 1}, {1, "two", 2}},
		},
		"the old one stands while there is no new one": {
			[]func() (Credential, error){gives("one", time.Hour), fails, fails, gives("two", time.Hour)},
			[]step{{0, "one", 1}, {time.Hour - refreshBefore, "one", 2}, {failureWait - 1, "one", 2}, {1, "one", 3}, {failureWait, "two", 4}},
		},
		"and not longer than it counts": {
			[]func() (Credential, error){gives("one", time.Hour), fails},
			[]step{{0, "one", 1}, {time.Hour - 1, "one", 2}, {1, "", 2}, {failureWait, "", 3}},
		},
		"a failure stands for a moment": {
			[]func() (Credential, error){fails, gives("one", time.Hour)},
			[]step{{0, "", 1}, {failureWait - 1, "", 1}, {1, "one", 2}},
		},
		"one that has ended is none":     {[]func() (Credential, error){gives("one", -time.Second)}, []step{{0, "", 1}}},
		"one without a password is none": {[]func() (Credential, error){gives("", time.Hour)}, []step{{0, "", 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			source := &script{steps: tc.source}
			cache := NewCache(source, c.Now)
			for i, s := range tc.steps {
				c.advance(s.pass)
				username, password, err := cache.Credential(t.Context())
				if password != s.want || (err == nil) != (s.want != "") || (username == "u") != (s.want != "") {
					t.Errorf("step %d: got %q, %q, %v, want %q", i, username, password, err, s.want)
				}
				if source.asked != s.fetches {
					t.Errorf("step %d: got %d fetches, want %d", i, source.asked, s.fetches)
				}
			}
		})
	}
}

// blocking is a source that waits to be told.
type blocking struct {
	release chan struct{}
	fetches int // -race sees to it that only one goroutine is ever here
}

func (b *blocking) Credential(ctx context.Context) (Credential, error) {
	b.fetches++
	select {
	case <-b.release:
		return Credential{Username: "u", Password: "p"}, nil
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
}

func TestCacheFetchesOnceHoweverManyAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &blocking{release: make(chan struct{})}
		cache := NewCache(source, nil)
		first, leave := context.WithCancel(t.Context())
		gone, results := make(chan error), make(chan string)
		go func() {
			_, _, err := cache.Credential(first)
			gone <- err
		}()
		synctest.Wait() // the fetch is the first one's
		for range 16 {
			go func() {
				username, password, err := cache.Credential(t.Context())
				results <- fmt.Sprint(username, password, err)
			}()
		}
		synctest.Wait()
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v for whoever left, want %v", err, context.Canceled)
		}
		close(source.release)
		for range 16 {
			if got := <-results; got != "up<nil>" {
				t.Errorf("got %s, want the credential", got)
			}
		}
		if source.fetches != 1 {
			t.Errorf("got %d fetches, want 1", source.fetches)
		}
	})
}

func TestFetchingHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		_, _, err := NewCache(&blocking{}, nil).Credential(t.Context())
		if took := time.Since(started); !errors.Is(err, context.DeadlineExceeded) || took != fetchTimeout {
			t.Errorf("got %v after %s, want %v after %s", err, took, context.DeadlineExceeded, fetchTimeout)
		}
	})
}

func TestConfigProblems(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "config.json")
	if err := os.WriteFile(empty, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		config Config
		want   string
	}{
		"nothing":                     {Config{}, "helper:"},
		"an unknown helper":           {Config{Helper: "keychain"}, "is none of acr, ecr, exec, gcr"},
		"two at once":                 {Config{Helper: "exec", DockerConfig: empty}, "exclude one another"},
		"a command without its word":  {Config{Command: []string{"/bin/true"}}, "exec goes with helper: exec"},
		"a command for a cloud":       {Config{Helper: "ecr", Command: []string{"/bin/true"}}, "exec goes with helper: exec"},
		"no command":                  {Config{Helper: "exec"}, "no command"},
		"a relative command":          {Config{Helper: "exec", Command: []string{"bin/true"}}, "not an absolute path"},
		"a command that is not there": {Config{Helper: "exec", Command: []string{filepath.Join(dir, "none")}}, "no such file"},
		"a command that is a folder":  {Config{Helper: "exec", Command: []string{dir}}, "not a program"},
		"a command that is a file":    {Config{Helper: "exec", Command: []string{empty}}, "not a program"},
		"a malformed environment":     {Config{Helper: "exec", Command: []string{"/bin/sh"}, Environment: []string{"secret"}}, "not NAME=value"},
		"no docker configuration":     {Config{Registry: "a.test", DockerConfig: filepath.Join(dir, "none")}, "docker_config:"},
		"one without the registry":    {Config{Registry: "a.test", DockerConfig: empty}, "no credential for a.test"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := New(tc.config, nil)
			if err == nil || got != nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, %v, want %q alone", got, err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, which repeats what may be a secret", err)
			}
		})
	}
}
