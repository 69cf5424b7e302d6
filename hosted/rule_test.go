package hosted

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

func TestParseTagRule(t *testing.T) {
	for s, want := range map[string]TagRule{"mutable": Mutable, "immutable": Immutable, "immutable-semver": ImmutableSemver} {
		if got, err := ParseTagRule(s); got != want || err != nil {
			t.Errorf("ParseTagRule(%q): got %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "Mutable", "semver"} {
		if got, err := ParseTagRule(s); got != Immutable || err == nil {
			t.Errorf("ParseTagRule(%q): got %d, %v, want an error", s, got, err)
		}
	}
}

func TestFixes(t *testing.T) {
	evidence := evidenceTags(digestOf(1))
	for _, tt := range []struct {
		rule TagRule
		tags []string
		want bool
	}{
		{Mutable, []string{"latest", "v1.0.0"}, false},
		{Immutable, []string{"latest", "v1.0.0"}, true},
		{ImmutableSemver, []string{"1.0.0", "v1.0.0", "v1.0.0-rc.1", "1.2.3-4_build.5"}, true},
		{ImmutableSemver, []string{"latest", "v1", "1.0", "01.0.0", "v1.0.0.0", "x1.0.0", "1.0.0-"}, false},
		{Immutable, evidence, false},
		{Immutable, []string{evidence[0] + ".other", strings.ToUpper(evidence[0]), "sha256-00"}, true},
	} {
		for _, tag := range tt.tags {
			if got := (Rule{Tags: tt.rule}).fixes(tag); got != tt.want {
				t.Errorf("fixes(%s) of rule %d: got %t, want %t", tag, tt.rule, got, tt.want)
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	negative := w.o
	negative.Rules = []Rule{{Pending: -time.Second}}
	if _, err := New(negative); !errors.Is(err, errPending) {
		t.Errorf("New: got %v, want errPending", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("New without a journal does not panic")
		}
	}()
	incomplete := w.o
	incomplete.Journal = nil
	_, _ = New(incomplete)
}

func TestHosts(t *testing.T) {
	first, second := rule(t, Mutable, "apps/*", "one"), rule(t, Immutable, "apps/**")
	w := start(t, newStorage(), &clock{}, first, second)
	for path, want := range map[string]bool{
		"apps/web": true, "apps/web/deep": true, "apps": true, "one": true, "two": false, "": false, "apps/_e": false, "Apps/web": false,
	} {
		if got := w.Hosts(path); got != want {
			t.Errorf("Hosts(%q): got %t, want %t", path, got, want)
		}
	}
	for path, want := range map[string]bool{"apps/web": false, "apps/web/deep": true} {
		found, err := w.rule(oci.Repository{Path: path})
		if got := found.fixes("latest"); got != want || err != nil {
			t.Errorf("the first rule that matches %q: fixes %t, %v, want %t", path, got, err, want)
		}
	}
}

// TestAChangeWaitsForItsTurn also after the repository was forgotten, and not longer than its caller.
func TestAChangeWaitsForItsTurn(t *testing.T) {
	w := start(t, newStorage(), &clock{})
	w.push(t, "latest", w.image(t, "one"))
	ctx, cancel := context.WithCancel(t.Context())
	err := w.change(t.Context(), web, func(*repository) error {
		cancel()
		return w.change(ctx, web, func(*repository) error { return errDisk })
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("change: got %v, want context.Canceled", err)
	}
	forgotten, err := w.open(web)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.drop(forgotten)
	w.mu.Unlock()
	err = w.change(t.Context(), web, func(rp *repository) error {
		if rp == forgotten || rp.size() == 0 {
			t.Error("the change is made to what was forgotten")
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.drop(rp)
		if w.repositories[web] != rp {
			t.Error("what is being changed is forgotten")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
