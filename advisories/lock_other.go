//go:build !unix

package advisories

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// lock takes the folder for whoever changes it, creating it if need be. A process that dies leaves the lock, which is then to be
// removed by hand.
//
// Errors: ErrBusy.
func (f *Folder) lock() (unlock func(), err error) {
	if err := os.MkdirAll(f.path, 0o755); err != nil {
		return nil, err
	}
	name := filepath.Join(f.path, lockName)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, ErrBusy
	}
	if err != nil {
		return nil, err
	}
	return func() { _, _ = file.Close(), os.Remove(name) }, nil // there is nobody to tell
}
