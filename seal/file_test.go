package seal_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tidewaiter/tidewaiter/seal"
)

const digits = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func writeFile(t *testing.T, content string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

func unhex(digits string) string {
	b, err := hex.DecodeString(digits)
	if err != nil {
		panic(err) // the test's own constant
	}
	return string(b)
}

// same reports whether a opens what b seals.
func same(a, b seal.Key) bool {
	_, err := a.Open("context", b.Seal("context", nil))
	return err == nil
}

func TestLoadKey(t *testing.T) {
	raw := "\x00\x01raw bytes, 32 of them at least.\n"
	tests := []struct {
		name    string
		content string
		mode    fs.FileMode
		secret  string // what the key is made of; empty when wantErr
		wantErr error
	}{
		{"reads hexadecimal digits", digits, 0o600, unhex(digits), nil},
		{"ignores white space around digits", "\n " + digits + "\r\n", 0o600, unhex(digits), nil},
		{"reads digits of either case", strings.ToUpper(digits), 0o400, unhex(digits), nil},
		{"reads raw bytes, every one", raw, 0o600, raw, nil},
		{"takes a file a group may read", digits, 0o440, unhex(digits), nil},
		{"refuses an empty file", "", 0o600, "", seal.ErrWeakKey},
		{"refuses too few digits", digits[:62], 0o600, "", seal.ErrWeakKey},
		{"refuses an odd number of digits", digits[:63], 0o600, "", seal.ErrWeakKey},
		{"refuses too few raw bytes", raw[:31], 0o600, "", seal.ErrWeakKey},
		{"refuses zeros", strings.Repeat("\x00", 32), 0o600, "", seal.ErrWeakKey},
		{"refuses the digits of zeros", strings.Repeat("0", 64), 0o600, "", seal.ErrWeakKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := seal.LoadKey(writeFile(t, tt.content, tt.mode))
			if !errors.Is(err, tt.wantErr) {
				t.Fatalf("LoadKey: got %v, want %v", err, tt.wantErr)
			}
			if tt.wantErr != nil {
				return
			}
			want, err := seal.NewKey([]byte(tt.secret))
			if err != nil {
				t.Fatal(err)
			}
			if !same(got, want) {
				t.Error("LoadKey: got another key than the file's")
			}
		})
	}
}

func TestLoadKeyRefusesTheFile(t *testing.T) {
	directory := t.TempDir()
	for name, path := range map[string]string{
		"that its group may write":  writeFile(t, digits, 0o620),
		"that everybody may write":  writeFile(t, digits, 0o602),
		"that is far too large":     writeFile(t, strings.Repeat("k3", 4096), 0o600),
		"that is a directory":       directory,
		"that is not there":         filepath.Join(directory, "none"),
		"under a missing directory": filepath.Join(directory, "none", "key"),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := seal.LoadKey(path)
			if err == nil || !got.IsZero() {
				t.Errorf("LoadKey: got %v, %v, want the zero Key and an error", got, err)
			}
		})
	}
}

func TestLoadKeyErrorDoesNotTellTheSecret(t *testing.T) {
	secret := digits[:60]
	_, err := seal.LoadKey(writeFile(t, secret, 0o600))
	if err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), unhex(secret)) {
		t.Errorf("got %v, want an error without the file's content", err)
	}
}

func TestCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	created, err := seal.CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("writes a file only its owner reads", func(t *testing.T) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode().Perm(), fs.FileMode(0o600); got != want {
			t.Errorf("mode: got %v, want %v", got, want)
		}
	})
	t.Run("leaves nothing else behind", func(t *testing.T) {
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(entries) != 1 {
			t.Errorf("got %v, %v, want the key alone", entries, err)
		}
	})
	t.Run("keeps the key that is there", func(t *testing.T) {
		for name, load := range map[string]func(string) (seal.Key, error){"CreateKey": seal.CreateKey, "LoadKey": seal.LoadKey} {
			if got, err := load(path); err != nil || !same(got, created) {
				t.Errorf("%s: got another key, or %v", name, err)
			}
		}
	})
	t.Run("makes a new key each time", func(t *testing.T) {
		other, err := seal.CreateKey(filepath.Join(t.TempDir(), "key"))
		if err != nil || same(other, created) {
			t.Errorf("got the same key again, or %v", err)
		}
	})
	t.Run("does not replace a file that is no key", func(t *testing.T) {
		path := writeFile(t, "not a key", 0o600)
		if _, err := seal.CreateKey(path); !errors.Is(err, seal.ErrWeakKey) {
			t.Errorf("got %v, want ErrWeakKey", err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, []byte("not a key")) {
			t.Errorf("the file now holds %q, %v", got, err)
		}
	})
	t.Run("needs the directory", func(t *testing.T) {
		if _, err := seal.CreateKey(filepath.Join(t.TempDir(), "none", "key")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want fs.ErrNotExist", err)
		}
	})
}

func TestCreateKeyByManyAtOnceIsOneKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	keys := make([]seal.Key, 16)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, err := seal.CreateKey(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	wg.Wait()
	for i, key := range keys {
		if key.IsZero() || !same(key, keys[0]) {
			t.Errorf("creator %d has another key than creator 0", i)
		}
	}
}
