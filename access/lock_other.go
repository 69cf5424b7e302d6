//go:build !unix

package access

import "errors"

// lockDir refuses: without a lock, of two changes at once one would be lost, and it might be the one that revokes.
func lockDir(string) (unlock func() error, err error) {
	return nil, errors.New("files are not changed on this system, which has no locks")
}
