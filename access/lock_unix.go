//go:build unix

package access

import (
	"errors"
	"os"
	"syscall"
)

// lockDir waits until no other process works in dir, and keeps others waiting until unlock. It takes the folder itself: a file in it
// may be replaced while it is waited for.
func lockDir(dir string) (unlock func() error, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d.Close, nil // which gives up the lock
}
