package quarantine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// spool is this process's own folder for arriving blobs, locked for as long as it lives, so that several processes can share the
// folder above it and each can tell what the dead have left.
type spool struct {
	dir  string
	lock *os.File
}

// openSpool makes a folder in parent and removes those whose owners have died.
func openSpool(parent string) (*spool, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, "arrivals-")
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	for _, e := range entries {
		if err := removeAbandoned(filepath.Join(parent, e.Name())); err != nil {
			return nil, errors.Join(err, lock.Close())
		}
	}
	return &spool{dir: dir, lock: lock}, nil
}

// lockDir returns dir opened and locked. Errors: syscall.EWOULDBLOCK when somebody alive holds the lock.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func removeAbandoned(dir string) error {
	lock, err := lockDir(dir)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(dir), lock.Close())
}

func (s *spool) create() (*os.File, error) { return os.CreateTemp(s.dir, "blob-") }

func (s *spool) remove() error { return errors.Join(os.RemoveAll(s.dir), s.lock.Close()) }
