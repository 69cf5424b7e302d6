//go:build unix

package scan

import (
	"syscall"
	"testing"
	"time"
)

// processorTime returns the processor time this process and the children it has waited for have taken.
func processorTime(tb testing.TB) (total time.Duration) {
	tb.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if err := syscall.Getrusage(who, &usage); err != nil {
			tb.Fatal(err)
		}
		total += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return total
}
