//go:build unix

package audit

import (
	"errors"
	"os"
	"syscall"
)

// lock makes the process the only one that writes f, until f is closed.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}
