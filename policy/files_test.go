package policy

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// records is a log that hands on each record, one line of text: level, message, attributes.
type records chan string

func (r records) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func (r records) Write(line []byte) (int, error) {
	r <- string(line)
	return len(line), nil
}

// await returns the first record with text in it, and fails t when none comes.
func (r records) await(t *testing.T, text string) string {
	t.Helper()
	var seen []string
	for {
		select {
		case line := <-r:
			if strings.Contains(line, text) {
				return line
			}
			seen = append(seen, line)
		case <-time.After(30 * time.Second):
			t.Fatalf("no record with %q came, only %q", text, seen)
		}
	}
}

// all returns the records that have come so far.
func (r records) all() (lines []string) {
	for {
		select {
		case line := <-r:
			lines = append(lines, line)
		default:
			return lines
		}
	}
}

func atTestNow() time.Time { return testNow }

// policyNamed returns a policy file of one policy.
func policyNamed(name string) string {
	return "policies: [{name: " + name + `, match: {repositories: ["**"]}, require: {signatures: {any_of: [key]}}}]`
}

// keyTrust is a trust file for [policyNamed].
const keyTrust = "authorities: [{name: key, cosign: {key_file: key.pub}}]"

// openFiles writes a policy named "first" and a trust file with its key under dir, and opens them.
func openFiles(t *testing.T, dir string) (*Files, records) {
	t.Helper()
	writeFiles(t, dir, map[string]string{
		"policy.yaml": policyNamed("first"), "trust.yaml": keyTrust, "key.pub": string(pkix(t, ed25519Key(1))),
	})
	log := make(records, 1000)
	files, err := Open(t.Context(), []string{filepath.Join(dir, "policy.yaml")}, []string{filepath.Join(dir, "trust.yaml")}, atTestNow, nil, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	return files, log
}

func TestOpen(t *testing.T) {
	var _ gate.Policies = (*Files)(nil)
	t.Run("has the shipped policy and no roots without files", func(t *testing.T) {
		files, err := Open(t.Context(), nil, nil, atTestNow, nil, make(records, 10).logger())
		if err != nil {
			t.Fatal(err)
		}
		if got := files.Current().Policies[0].Name; got != "default" {
			t.Errorf("got policy %q, want default", got)
		}
		if roots := files.Roots(); roots == nil || len(roots.Authorities) != 0 || roots.Revision == "" {
			t.Errorf("got roots %+v", roots)
		}
	})
	t.Run("says what is in force", func(t *testing.T) {
		files, log := openFiles(t, t.TempDir())
		line := log.await(t, "policy in force")
		for _, want := range []string{
			"level=INFO", "policies=1", "authorities=1", "waivers=0", files.Current().Revision, files.Current().WaiverRevision, files.Roots().Revision,
		} {
			if !strings.Contains(line, want) {
				t.Errorf("got record %q, want %q in it", line, want)
			}
		}
	})
	t.Run("warns of what is unsafe", func(t *testing.T) {
		dir := writeFiles(t, t.TempDir(), map[string]string{
			"p.yaml": `policies: [{name: lax, match: {repositories: ["**"]}, image: {deny_foreign_layers: false}}]`,
		})
		log := make(records, 10)
		if _, err := Open(t.Context(), []string{filepath.Join(dir, "p.yaml")}, nil, atTestNow, nil, log.logger()); err != nil {
			t.Fatal(err)
		}
		if line := log.await(t, "unsafe policy"); !strings.Contains(line, "level=WARN") || !strings.Contains(line, "policy=lax") {
			t.Errorf("got record %q", line)
		}
	})
	t.Run("tells problems of policies and roots at once", func(t *testing.T) {
		dir := writeFiles(t, t.TempDir(), map[string]string{"p.yaml": "policies: 1", "t.yaml": "authorities: 2"})
		files, err := Open(t.Context(), []string{filepath.Join(dir, "p.yaml")}, []string{filepath.Join(dir, "t.yaml")}, atTestNow, nil, make(records, 10).logger())
		want := dir + "/p.yaml:1:11: policies: want a list, got a number\n" + dir + "/t.yaml:1:14: authorities: want a list, got a number\n"
		if diff := cmp.Diff(want, problemsOf(t, err)); diff != "" || files != nil {
			t.Errorf("got files %v, -want +got:\n%s", files, diff)
		}
	})
	t.Run("refuses a policy that asks for an authority no trust file names", func(t *testing.T) {
		dir := writeFiles(t, t.TempDir(), map[string]string{"p.yaml": policyNamed("p")})
		_, err := Open(t.Context(), []string{filepath.Join(dir, "p.yaml")}, nil, atTestNow, nil, make(records, 10).logger())
		if got := problemsOf(t, err); !strings.Contains(got, `/p.yaml:1: policy "p" asks for the word of "key"`) {
			t.Errorf("got %s", got)
		}
	})
	t.Run("keeps the roots in force when others cannot be used", func(t *testing.T) {
		dir := writeFiles(t, t.TempDir(), map[string]string{"t.yaml": keyTrust, "key.pub": string(pkix(t, ed25519Key(1)))})
		broken := errors.New("not like this")
		usable := func(_ *gate.PolicySet, roots *gate.TrustRoots) error {
			if len(roots.Authorities) == 0 {
				return broken
			}
			return nil
		}
		files, err := Open(t.Context(), nil, []string{filepath.Join(dir, "t.yaml")}, atTestNow, usable, make(records, 10).logger())
		if err != nil {
			t.Fatal(err)
		}
		before := files.Roots()
		writeFiles(t, dir, map[string]string{"t.yaml": "authorities: []"})
		if err := files.Reload(t.Context()); !errors.Is(err, broken) || files.Roots() != before {
			t.Errorf("got %v, and other roots: %v", err, files.Roots() != before)
		}
	})
	t.Run("tells both a file that is not there and problems of another", func(t *testing.T) {
		dir := writeFiles(t, t.TempDir(), map[string]string{"t.yaml": "authorities: 2"})
		_, err := Open(t.Context(), []string{filepath.Join(dir, "absent")}, []string{filepath.Join(dir, "t.yaml")}, atTestNow, nil, make(records, 10).logger())
		if _, ok := errors.AsType[*Problems](err); !ok || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}

// TestReload holds what a bad file must not do: touch anything that is in force.
func TestReload(t *testing.T) {
	bad := map[string]map[string]string{
		"a policy file that is no YAML":                {"policy.yaml": "policies: ["},
		"a policy file that is empty":                  {"policy.yaml": ""},
		"a policy with an unknown key":                 {"policy.yaml": policyNamed("second") + "\nwaiver: []"},
		"a trust file with an unknown key":             {"trust.yaml": keyTrust + "\nkeys: []"},
		"a key file that is cut short":                 {"key.pub": "-----BEGIN PUBLIC KEY-----\nMCowBQ"},
		"a trust file that lacks an authority":         {"trust.yaml": "authorities: []"},
		"a good policy file with a bad trust file":     {"policy.yaml": policyNamed("second"), "trust.yaml": ""},
		"a good trust file with a bad policy file":     {"policy.yaml": "", "trust.yaml": strings.ReplaceAll(keyTrust, "name: key", "name: other")},
		"a policy that asks for an authority too many": {"policy.yaml": strings.ReplaceAll(policyNamed("second"), "[key]", "[key, other]")},
	}
	for name, change := range bad {
		t.Run("keeps everything for "+name, func(t *testing.T) {
			dir := t.TempDir()
			files, _ := openFiles(t, dir)
			set, roots := files.Current(), files.Roots()
			writeFiles(t, dir, change)
			_ = problemsOf(t, files.Reload(t.Context()))
			if files.Current() != set || files.Roots() != roots {
				t.Error("what is in force has changed")
			}
		})
	}
	t.Run("keeps everything for a file that is gone", func(t *testing.T) {
		dir := t.TempDir()
		files, _ := openFiles(t, dir)
		set, roots := files.Current(), files.Roots()
		if err := os.Remove(filepath.Join(dir, "policy.yaml")); err != nil {
			t.Fatal(err)
		}
		if err := files.Reload(t.Context()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want %v", err, fs.ErrNotExist)
		}
		if files.Current() != set || files.Roots() != roots {
			t.Error("what is in force has changed")
		}
	})
	t.Run("brings policies and roots into force together", func(t *testing.T) {
		dir := t.TempDir()
		files, log := openFiles(t, dir)
		set, roots := files.Current(), files.Roots()
		log.all()
		writeFiles(t, dir, map[string]string{
			"policy.yaml": strings.ReplaceAll(policyNamed("second"), "[key]", "[other]"),
			"trust.yaml":  strings.ReplaceAll(keyTrust, "name: key", "name: other"),
		})
		if err := files.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := files.Current().Policies[0].Name; got != "second" || files.Current().Revision == set.Revision {
			t.Errorf("got policy %q of revision %s", got, files.Current().Revision)
		}
		if got := files.Roots().Authorities[0].Name; got != "other" || files.Roots().Revision == roots.Revision {
			t.Errorf("got authority %q of revision %s", got, files.Roots().Revision)
		}
		log.await(t, files.Current().Revision)
		if set.Policies[0].Name != "first" || roots.Authorities[0].Name != "key" {
			t.Error("values handed out before were modified")
		}
	})
	t.Run("measures waivers against the present", func(t *testing.T) {
		now := testNow
		dir := writeFiles(t, t.TempDir(), map[string]string{"p.yaml": policyNamed("p") + "\nwaiver_max: 24h"})
		writeFiles(t, dir, map[string]string{"t.yaml": keyTrust, "key.pub": string(pkix(t, ed25519Key(1)))})
		files, err := Open(t.Context(), []string{filepath.Join(dir, "p.yaml")}, []string{filepath.Join(dir, "t.yaml")},
			func() time.Time { return now }, nil, make(records, 10).logger())
		if err != nil {
			t.Fatal(err)
		}
		writeFiles(t, dir, map[string]string{"p.yaml": policyNamed("p") +
			"\nwaiver_max: 24h\nwaivers: [{rule: gap, repositories: [x], until: 2026-09-03T00:00:00Z, reason: r, by: b}]"})
		_ = problemsOf(t, files.Reload(t.Context()))
		now = now.Add(24 * time.Hour)
		if err := files.Reload(t.Context()); err != nil {
			t.Errorf("a day later: %v", err)
		}
	})
	t.Run("says little when nothing has changed", func(t *testing.T) {
		files, log := openFiles(t, t.TempDir())
		log.all()
		if err := files.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, line := range log.all() {
			if !strings.HasPrefix(line, "level=DEBUG") {
				t.Errorf("got record %q", line)
			}
		}
	})
}

// TestReloadWhileRead reads while others reload: a reader sees one reading or the other, never a mixture or nothing.
func TestReloadWhileRead(t *testing.T) {
	dir := t.TempDir()
	files, _ := openFiles(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	var readers, reloads sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				set, roots := files.Current(), files.Roots()
				if len(set.Policies) != 1 || len(roots.Authorities) != 1 {
					t.Errorf("got %d policies and %d authorities", len(set.Policies), len(roots.Authorities))
					return
				}
			}
		})
	}
	for range 4 {
		reloads.Go(func() {
			for range 20 {
				if err := files.Reload(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	reloads.Wait()
	stop()
	readers.Wait()
}
