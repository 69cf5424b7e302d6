package upstream

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

func quietTokens() *tokens {
	return newTokens(func(_ context.Context, _ auth.Scheme, err error) error { return err })
}

func TestTokensFetchOnceHoweverManyAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := quietTokens()
		fetches, release := 0, make(chan struct{})
		fetch := func(context.Context) (string, error) {
			fetches++ // only one goroutine ever gets here: that is the law under test, and -race watches it
			<-release
			return "token", nil
		}
		results := make(chan string)
		for range 16 {
			go func() {
				token, err := tokens.Set(t.Context(), "host", auth.SchemeBearer, "scope", fetch)
				results <- fmt.Sprint(token, err)
			}()
		}
		synctest.Wait()
		close(release)
		for range 16 {
			if got := <-results; got != "token<nil>" {
				t.Errorf("got %s, want the token", got)
			}
		}
		if fetches != 1 {
			t.Errorf("got %d fetches, want 1", fetches)
		}
	})
}

// Whoever asked first may leave without taking the token from the others.
func TestTokensOutliveTheFirstToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := quietTokens()
		release := make(chan struct{})
		fetch := func(ctx context.Context) (string, error) {
			select {
			case <-release:
				return "token", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		first, leave := context.WithCancel(t.Context())
		gone, stays := make(chan error), make(chan error)
		go func() {
			_, err := tokens.Set(first, "host", auth.SchemeBearer, "scope", fetch)
			gone <- err
		}()
		synctest.Wait() // the flight is the first one's
		go func() {
			_, err := tokens.Set(t.Context(), "host", auth.SchemeBearer, "scope", fetch)
			stays <- err
		}()
		synctest.Wait()
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v for whoever left, want %v", err, context.Canceled)
		}
		close(release)
		if err := <-stays; err != nil {
			t.Errorf("got %v for whoever stayed, want none", err)
		}
	})
}

func TestTokensFetchHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		_, err := quietTokens().Set(t.Context(), "host", auth.SchemeBearer, "scope", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", context.Cause(ctx)
		})
		if got := time.Since(started); !errors.Is(err, errTooSlow) || got != tokenTimeout {
			t.Errorf("got %v after %s, want %v after %s", err, got, errTooSlow, tokenTimeout)
		}
	})
}

func TestTokensAreKeptByHostSchemeAndScope(t *testing.T) {
	tokens := quietTokens()
	ctx := t.Context()
	if _, err := tokens.GetScheme(ctx, "a"); err == nil {
		t.Error("got a scheme before there was one")
	}
	ctx = auth.WithScopes(ctx, "repository:x:pull")
	_, err := tokens.Set(ctx, "a", auth.SchemeBearer, "aws", func(context.Context) (string, error) { return "token", nil })
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		host   string
		scheme auth.Scheme
		scope  string
		want   string
	}{
		{"a", auth.SchemeBearer, "aws", "token"},
		{"a", auth.SchemeBearer, "repository:x:pull", "token"}, // as it was asked for
		{"a", auth.SchemeBearer, "repository:y:pull", ""},
		{"a", auth.SchemeBasic, "aws", ""},
		{"b", auth.SchemeBearer, "aws", ""},
	}
	for _, tc := range tests {
		if got, _ := tokens.GetToken(ctx, tc.host, tc.scheme, tc.scope); got != tc.want {
			t.Errorf("%s %s %q: got %q, want %q", tc.host, tc.scheme, tc.scope, got, tc.want)
		}
	}
}

// However many names a client makes up, what is kept of them is bounded.
func TestMemoryIsBounded(t *testing.T) {
	m := newMemory[int](3)
	for i := range 100 {
		key := fmt.Sprint(i)
		m.put(key, i)
		m.put(key, i) // known: nobody has to make room
		if got, ok := m.get(key); !ok || got != i {
			t.Fatalf("got %d, %t, want %d", got, ok, i)
		}
		if want := min(i+1, 3); len(m.entries) != want {
			t.Fatalf("got %d entries, want %d", len(m.entries), want)
		}
	}
	m.forget("99")
	if _, ok := m.get("99"); ok {
		t.Error("got what was forgotten")
	}
}
