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

// openSpool makes a folder in parent and removes those whose owners have died. Processes that start together take turns at it: a
// folder that is made and not yet locked looks abandoned.
func openSpool(parent string) (s *spool, err error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	turn, err := lockDir(parent, syscall.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, turn.Close()) }()
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := removeAbandoned(filepath.Join(parent, e.Name())); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(parent, "arrivals-")
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(dir, syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return nil, err
	}
	return &spool{dir: dir, lock: lock}, nil
}

// lockDir returns dir opened and locked as how says. Errors: syscall.EWOULDBLOCK when somebody alive holds the lock and how says not
// to wait.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func removeAbandoned(dir string) error {
	lock, err := lockDir(dir, syscall.LOCK_EX|syscall.LOCK_NB)
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
