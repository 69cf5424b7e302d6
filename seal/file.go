package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxKeyFileBytes bounds a key file. A key of 32 bytes is 65 in hexadecimal with its line end; whatever is much larger is another
// file than was meant.
const maxKeyFileBytes = 4096

// writableByOthers are the permissions a file that is believed must not have. Reading by a group is how orchestrators hand secrets to a
// process that is not root, so it is not refused; whoever can write can replace a key, and with it everything it vouches for.
const writableByOthers fs.FileMode = 0o022

// LoadKey reads the key from the file at path: at least 64 hexadecimal digits, white space around them ignored, or else at least
// 32 raw bytes, all of which count. It refuses a file that others than its owner may write.
//
// Errors: [ErrWeakKey], fs.ErrNotExist, and whatever reading returns.
func LoadKey(path string) (Key, error) {
	content, err := ReadFile(path, maxKeyFileBytes)
	if err != nil {
		return Key{}, fmt.Errorf("loading the seal key: %w", err)
	}
	key, err := parseKey(content)
	if err != nil {
		return Key{}, fmt.Errorf("loading the seal key %s: %w", path, err)
	}
	return key, nil
}

// ReadFile reads a file that is believed, such as one with a key or with who may do what: a regular one of at most maxBytes that nobody
// but its owner may write.
func ReadFile(path string, maxBytes int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	info, err := f.Stat()            // of the open file: the name may lead elsewhere by now
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&writableByOthers != 0 {
		return nil, fmt.Errorf("%s has mode %v: others than its owner may write it", path, info.Mode().Perm())
	}
	content, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > maxBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxBytes)
	}
	return content, nil
}

// parseKey reads hexadecimal digits as such whatever their number, so that a truncated key is refused rather than taken for raw
// bytes of half the strength.
func parseKey(content []byte) (Key, error) {
	text := bytes.TrimSpace(content)
	if secret, err := hex.DecodeString(string(text)); err == nil {
		return NewKey(secret)
	} else if errors.Is(err, hex.ErrLength) {
		return Key{}, fmt.Errorf("an odd number of hexadecimal digits: %w", ErrWeakKey)
	}
	return NewKey(content)
}

// CreateKey loads the key at path, first writing a random one there if there is no file. Of several processes that do so at once
// one writes and all return its key; none ever sees part of a file. The file's mode is 0600, the directory must exist.
//
// Errors: as [LoadKey], and whatever writing returns.
func CreateKey(path string) (Key, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := writeKey(path); err != nil {
			return Key{}, fmt.Errorf("creating the seal key: %w", err)
		}
	}
	return LoadKey(path)
}

// writeKey writes a complete file under another name and links it to path, which, unlike renaming, never replaces a file that
// came to be in the meantime.
func writeKey(path string) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".seal-key-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // a leftover name is harmless
	if err := errors.Join(fill(f), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

func fill(f *os.File) error {
	secret := make([]byte, MinKeyBytes)
	_, _ = rand.Read(secret) // never fails
	if _, err := fmt.Fprintf(f, "%x\n", secret); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes a new name in dir durable: a key that is lost after records were sealed with it takes them all along.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
