package scan

import (
	"bytes"
	"regexp"
	"strings"
)

// npmReader is the name of what reads manifests of npm packages.
const npmReader = "npm"

const (
	// maxStoredManifestBytes bounds a manifest in a store. They have some kilobytes.
	maxStoredManifestBytes = 256 << 10
	// maxStoreBytes bounds the manifests in the stores of a layer. Ten thousand packages have half of it.
	maxStoreBytes = 64 << 20
)

// storePlace matches where pnpm stores files by their digests, to give them their names by hard links (pnpm.io, Motivation).
var storePlace = regexp.MustCompile(`(?:^|/)v\d+/files/[0-9a-f]{2}/[0-9a-f]{32,}$`)

// inPnpmStore reports whether the file at p lies in a store.
func inPnpmStore(p string) bool { return strings.Contains(p, "/files/") && storePlace.MatchString(p) }

// pnpmStore are the files of a store that may be manifests, by their paths. Only a hard link tells, and where the store comes first in an
// archive, as it does before usr/src/app, the bytes have passed by then.
type pnpmStore struct {
	files map[string][]byte
	// held counts their bytes, those that were replaced included.
	held int
}

// add keeps the file at p, which has data, if it may be a manifest and there is room.
func (s *pnpmStore) add(p string, data []byte) {
	begin := bytes.TrimLeft(bytes.TrimPrefix(data, []byte(byteOrderMark)), " \t\r\n")
	if len(begin) > 0 && begin[0] != '{' || bytes.Contains(data, []byte(`"mappings"`)) && !bytes.Contains(data, []byte(`"name"`)) { // a source map
		return
	}
	if s.held += len(p) + len(data); s.held <= maxStoreBytes {
		s.files[p] = bytes.Clone(data)
	}
}
