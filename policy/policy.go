// Package policy owns the policy and trust files: it reads them into the values [gate] decides by, computes the revisions that
// identify what they say, and follows the files as they change.
//
// It promises that a file is taken as a whole or not at all, that nothing in it is ignored, and that everything wrong with it is
// told at once, with file, line and column. It decides nothing, and must not know images, registries or verdicts.
package policy

import (
	_ "embed"
	"io"
	"os"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// maxFileBytes bounds a policy or trust file. A Kubernetes ConfigMap holds no more than 1 MiB either.
const maxFileBytes = 1 << 20

// defaultName stands for a file name where the shipped policy says where it was written.
const defaultName = "built-in default.yaml"

//go:embed default.yaml
var defaultPolicy []byte

// source is a file as it was read.
type source struct {
	name string
	data []byte
}

// Load reads files, in order, into one set of policies and waivers: the first policy of the first file is asked first. Without
// files it is the shipped default policy. No waiver may reach further than the files' waiver_max beyond now.
//
// Errors: [*Problems] for everything wrong with the files' content; otherwise a file could not be read.
func Load(files []string, now time.Time) (*gate.PolicySet, error) {
	if len(files) == 0 {
		return Parse(defaultName, defaultPolicy, now)
	}
	sources, err := readAll(files)
	if err != nil {
		return nil, err
	}
	return compile(sources, now)
}

// Parse is [Load] for one file that has been read already and is called name.
//
// Errors: [*Problems].
func Parse(name string, data []byte, now time.Time) (*gate.PolicySet, error) {
	return compile([]source{{name, data}}, now)
}

func readAll(files []string) ([]source, error) {
	sources := make([]source, 0, len(files))
	for _, name := range files {
		data, err := readBounded(name, maxFileBytes)
		if err != nil {
			return nil, err
		}
		sources = append(sources, source{name, data})
	}
	return sources, nil
}

// readBounded returns what the file called name holds, or its first limit+1 bytes when it holds more than limit. Errors name the
// file and what was done to it.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read from
	return io.ReadAll(io.LimitReader(f, limit+1))
}
