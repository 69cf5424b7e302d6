package policy

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
)

// watching follows files until t ends, and fails t should Watch.
func watching(t *testing.T, files *Files) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- files.Watch(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("watching: %v", err)
		}
	})
}

// replace writes data beside path and renames it there, as most editors save.
func replace(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path+"~", []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

// turn makes link lead to target in one step.
func turn(t *testing.T, target, link string) {
	t.Helper()
	if err := os.Symlink(target, link+"_tmp"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+"_tmp", link); err != nil {
		t.Fatal(err)
	}
}

func TestWatchFollowsFiles(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string){
		"written in place": func(t *testing.T, dir string) {
			writeFiles(t, dir, map[string]string{"policy.yaml": policyNamed("second")})
		},
		"replaced": func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, "policy.yaml"), policyNamed("second"))
		},
		"removed and written anew": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "policy.yaml")); err != nil {
				t.Fatal(err)
			}
			writeFiles(t, dir, map[string]string{"policy.yaml": policyNamed("second")})
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files, log := openFiles(t, dir)
			log.await(t, "policy in force")
			watching(t, files)
			log.await(t, "the same as before") // the reading with which watching begins
			change(t, dir)
			log.await(t, "policy in force")
			if got := files.Current().Policies[0].Name; got != "second" {
				t.Errorf("got policy %q, want second", got)
			}
		})
	}
}

func TestWatchSeesWhatChangedBeforeItBegan(t *testing.T) {
	dir := t.TempDir()
	files, log := openFiles(t, dir)
	log.await(t, "policy in force")
	replace(t, filepath.Join(dir, "policy.yaml"), policyNamed("second"))
	watching(t, files)
	log.await(t, "policy in force")
}

func TestWatchKeepsThePolicyForABadFile(t *testing.T) {
	dir := t.TempDir()
	files, log := openFiles(t, dir)
	watching(t, files)
	log.await(t, "the same as before")
	set := files.Current()

	replace(t, filepath.Join(dir, "policy.yaml"), "policies:\n- name: second\n  macth: {}\n")
	line := log.await(t, "level=ERROR")
	for _, want := range []string{"what was in force stays in force", `policy.yaml:3:3: unknown key \"macth\"`, set.Revision} {
		if !strings.Contains(line, want) {
			t.Errorf("got record %q, want %q in it", line, want)
		}
	}
	if files.Current() != set {
		t.Error("the policy in force has changed")
	}

	replace(t, filepath.Join(dir, "policy.yaml"), policyNamed("third"))
	log.await(t, "policy in force")
	if got := files.Current().Policies[0].Name; got != "third" {
		t.Errorf("got policy %q, want third: watching has ended with the bad file", got)
	}
}

func TestWatchFollowsKeys(t *testing.T) {
	dir := t.TempDir()
	files, log := openFiles(t, dir)
	watching(t, files)
	log.await(t, "the same as before")
	roots := files.Roots()

	t.Run("in the file that holds one", func(t *testing.T) {
		replace(t, filepath.Join(dir, "key.pub"), string(pkix(t, ed25519Key(2))))
		log.await(t, "policy in force")
		if files.Roots().Revision == roots.Revision {
			t.Error("the roots are the same")
		}
	})
	t.Run("into a directory named only now, once the missing file is there", func(t *testing.T) {
		if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
			t.Fatal(err)
		}
		replace(t, filepath.Join(dir, "trust.yaml"), strings.ReplaceAll(keyTrust, "key.pub", "keys/new.pub"))
		log.await(t, "no such file or directory")
		writeFiles(t, dir, map[string]string{"keys/new.pub": string(pkix(t, ed25519Key(3)))})
		log.await(t, "policy in force")
	})
}

// TestWatchFollowsLinks turns links as Kubernetes updates a ConfigMap: policy.yaml leads through ..data to a directory of its
// version, and the link ..data is what changes.
func TestWatchFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	key := string(pkix(t, ed25519Key(1)))
	writeFiles(t, dir, map[string]string{
		"map/..1/policy.yaml": policyNamed("first"), "map/..1/trust.yaml": keyTrust, "map/..1/key.pub": key,
		"map/..2/policy.yaml": policyNamed("second"), "map/..2/trust.yaml": keyTrust, "map/..2/key.pub": key,
	})
	turn(t, "..1", filepath.Join(dir, "map", "..data"))
	for _, name := range []string{"policy.yaml", "trust.yaml", "key.pub"} {
		turn(t, filepath.Join("..data", name), filepath.Join(dir, "map", name))
	}
	// The directory is itself reached by a link, and by another way than its own for each kind of file.
	turn(t, "map", filepath.Join(dir, "mounted"))
	log := make(records, 1000)
	files, err := Open(t.Context(), []string{filepath.Join(dir, "mounted", "policy.yaml")}, []string{filepath.Join(dir, "map", "trust.yaml")},
		atTestNow, nil, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	watching(t, files)
	log.await(t, "the same as before")

	t.Run("to another version", func(t *testing.T) {
		turn(t, "..2", filepath.Join(dir, "map", "..data"))
		if err := os.RemoveAll(filepath.Join(dir, "map", "..1")); err != nil {
			t.Fatal(err)
		}
		log.await(t, "policy in force")
		if got := files.Current().Policies[0].Name; got != "second" {
			t.Errorf("got policy %q, want second", got)
		}
	})
	t.Run("and a file where they end", func(t *testing.T) {
		replace(t, filepath.Join(dir, "map", "..2", "policy.yaml"), policyNamed("third"))
		log.await(t, "policy in force")
		if got := files.Current().Policies[0].Name; got != "third" {
			t.Errorf("got policy %q, want third", got)
		}
	})
}

// TestWatchConcerns holds which changes count: a log file in the same directory must not lead to reading, which may write a log.
func TestWatchConcerns(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{"real/trust.yaml": keyTrust, "real/key.pub": string(pkix(t, ed25519Key(1)))})
	turn(t, filepath.Join("real", "trust.yaml"), filepath.Join(dir, "trust.yaml"))
	files, _ := openFiles(t, dir)
	events, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := events.Close(); err != nil {
			t.Error(err)
		}
	}()
	w := watch{files: files, events: events}
	if changed, err := w.follow(); !changed || err != nil {
		t.Fatalf("following: %v, %v", changed, err)
	}
	if changed, err := w.follow(); changed || err != nil {
		t.Errorf("following again: got %v, %v, want no change", changed, err)
	}
	if diff := cmp.Diff([]string{dir, filepath.Join(dir, "real")}, slices.Sorted(slices.Values(events.WatchList()))); diff != "" {
		t.Errorf("directories watched (-want +got):\n%s", diff)
	}
	tests := map[string]bool{
		"policy.yaml": true, "trust.yaml": true, "real/trust.yaml": true, "key.pub": true,
		"policy.yaml~": false, "tidewaiter.log": false, "real/policy.yaml": false, "real": false, ".": false,
	}
	for name, want := range tests {
		if got := w.concerns(fsnotify.Event{Name: filepath.Join(dir, name), Op: fsnotify.Write}); got != want {
			t.Errorf("a change of %s: got %v, want %v", name, got, want)
		}
	}
	writeFiles(t, dir, map[string]string{"next/trust.yaml": keyTrust})
	turn(t, "next", filepath.Join(dir, "real", "..data"))
	if w.concerns(fsnotify.Event{Name: filepath.Join(dir, "real", "..data"), Op: fsnotify.Create}) {
		t.Error("a link on no file's way: got true, want false")
	}
	turn(t, filepath.Join("next", "trust.yaml"), filepath.Join(dir, "trust.yaml"))
	if !w.concerns(fsnotify.Event{Name: filepath.Join(dir, "anything"), Op: fsnotify.Create}) {
		t.Error("a link on a file's way: got false, want true")
	}
	if changed, err := w.follow(); !changed || err != nil {
		t.Errorf("following the turned link: %v, %v", changed, err)
	}
	if diff := cmp.Diff([]string{dir, filepath.Join(dir, "next")}, slices.Sorted(slices.Values(events.WatchList()))); diff != "" {
		t.Errorf("directories watched after (-want +got):\n%s", diff)
	}
}

func TestWatchFailsWithoutTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	files, _ := openFiles(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := files.Watch(t.Context()); err == nil || !strings.Contains(err.Error(), "watching "+dir) {
		t.Errorf("got %v, want an error that names %s", err, dir)
	}
}
