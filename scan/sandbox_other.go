//go:build !linux

package scan

import (
	"os"
	"syscall"
)

func childAttributes() *syscall.SysProcAttr { return nil }

func selfExecutable() (string, error) { return os.Executable() }

// confine confines nothing: landlock and seccomp are Linux's, and so [New] refuses unless told otherwise.
func confine(string, uint64) (confinement, error) { return confinement{}, nil }

// widen does nothing: pipes elsewhere are as they are.
func widen(*os.File) {}
