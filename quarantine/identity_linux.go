package quarantine

import (
	"os"
	"syscall"
)

// identity tells one state of a file from another: whoever changes the bytes changes the times, and nobody sets the last one.
type identity struct {
	device, inode uint64
	size          int64
	modified      syscall.Timespec
	changed       syscall.Timespec
}

// identify returns r's file and its identity. ok is false when r is not a plain file.
func identify(r any) (file *os.File, id identity, ok bool) {
	file, ok = r.(*os.File)
	if !ok {
		return nil, identity{}, false
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, identity{}, false
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, identity{}, false
	}
	return file, identity{device: sys.Dev, inode: sys.Ino, size: sys.Size, modified: sys.Mtim, changed: sys.Ctim}, true
}
