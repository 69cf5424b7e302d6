//go:build !linux

package quarantine

import "os"

// identity tells one state of a file from another. Here it never does, so that everything is verified each time it is read.
type identity struct{ size int64 }

// identify never knows r.
func identify(any) (file *os.File, id identity, ok bool) { return nil, identity{}, false }
