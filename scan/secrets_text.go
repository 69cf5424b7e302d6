package scan

import "slices"

// Secrets finds credentials in short texts that no layer holds, such as the variables of an image's config. It is safe for concurrent
// use: searching a text by regular expressions needs no process of its own, as taking a layer apart does.
type Secrets struct{ detectors []detector }

// NewSecrets returns a finder of all kinds of secrets that are looked for in layers.
func NewSecrets() *Secrets { return &Secrets{newDetectors()} }

// unsearched stands for whatever may be in a text that could not be searched.
const unsearched = "text that could not be searched"

// Kinds returns the kinds of secrets in text, sorted, each once.
func (s *Secrets) Kinds(text []byte) []string {
	var kinds []string
	for _, d := range s.detectors {
		if kind, found := d.find(text); found {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// find reports whether text has a secret, of which kind. A panic of the library is one that may be there.
func (d detector) find(text []byte) (kind string, found bool) {
	defer func() {
		if recover() != nil {
			kind, found = unsearched, true
		}
	}()
	_, at := d.Detect(text)
	return d.kind, len(at) > 0
}
