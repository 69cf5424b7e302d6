//go:build unix

package advisories

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// lock takes the folder for whoever changes it, creating it if need be. The system gives it back if the process dies.
//
// Errors: ErrBusy.
func (f *Folder) lock() (unlock func(), err error) {
	if err := os.MkdirAll(f.path, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(f.path, lockName), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil // which gives the lock back
}
