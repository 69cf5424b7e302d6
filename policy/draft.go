package policy

import (
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// MaxFileBytes is the largest policy file there may be.
const MaxFileBytes = maxFileBytes

// File is a policy file that has been read already.
type File struct {
	// Name is what problems and verdicts call it.
	Name string
	Data []byte
}

// ParseAll is [Load] for files that have been read already, at least one.
//
// Errors: [*Problems].
func ParseAll(files []File, now time.Time) (*gate.PolicySet, error) {
	sources := make([]source, len(files))
	for i, f := range files {
		sources[i] = source{f.Name, f.Data}
	}
	return compile(sources, now)
}
