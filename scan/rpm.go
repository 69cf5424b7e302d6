package scan

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// rpmTimeout is how long reading one rpm database may take. The largest known take two seconds, and what we parse ourselves is gone
// through once; SQLite does what a database has it do.
const rpmTimeout = time.Minute

// readRPM returns the packages of an rpm database in any of its three formats: sqlite, ndb, Berkeley DB. A database that is damaged is
// an error, with the packages read until then. dir is where it is put for SQLite. owns is told the vendor and the files of each package.
//
// Neither scalibr's reader nor the library below it is used: what they cannot read of a database they leave out, and they can be led
// in a circle.
func readRPM(ctx context.Context, dir string, data []byte, owns func(vendor string, files []fileDigest)) ([]gate.Package, error) {
	ctx, cancel := context.WithTimeout(ctx, rpmTimeout)
	defer cancel()
	packages, err := packagesOf(ctx, rpmHeaders(ctx, dir, data), owns)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) { // as which SQLite reports it differs
		err = overLimit("reading it takes more than %v", rpmTimeout)
	}
	return packages, err
}

// rpmHeaders yields the header of each package of a database in any format.
func rpmHeaders(ctx context.Context, dir string, data []byte) iter.Seq2[[]byte, error] {
	switch {
	case isSQLite(data):
		return sqliteHeaders(ctx, dir, data)
	case isNDB(data):
		return ndbHeaders(data)
	case isBDB(data):
		return bdbHeaders(data)
	default:
		return func(yield func([]byte, error) bool) { yield(nil, errors.New("it is in no format rpm has had")) }
	}
}

func packagesOf(ctx context.Context, headers iter.Seq2[[]byte, error], owns func(vendor string, files []fileDigest)) ([]gate.Package, error) {
	var packages []gate.Package
	for raw, err := range headers {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return packages, err
		}
		header, err := parseRPMHeader(raw)
		if err != nil {
			return packages, err
		}
		p, err := header.pkg()
		if err != nil {
			return packages, err
		}
		if p.Name == "gpg-pubkey" { // a key rpm trusts, kept as if it were a package
			continue
		}
		packages = append(packages, p)
		if vendor, err := header.text(rpmTagVendor); err == nil { // else they are reported as if they were nobody's
			digests, _ := header.texts(rpmTagFileDigests, maxOwnedPaths) // without them the paths have to do
			owns(vendor, withDigests(header.files(), digests))
		}
	}
	return packages, nil
}

// withDigests returns files with their digests. Those that are empty are left out at the end.
func withDigests(names, digests []string) []fileDigest {
	files := make([]fileDigest, len(names))
	for i, name := range names {
		files[i].path = name
		if i < len(digests) {
			files[i].digest = digests[i]
		}
	}
	return files
}

// splitSourceRPM takes "bash-5.2.26-4.fc41.src.rpm" apart into "bash" and "5.2.26-4.fc41". The file name has no epoch: it is the
// binary package's.
func splitSourceRPM(fileName string) (name, version string, ok bool) {
	stem, ok := strings.CutSuffix(fileName, ".rpm")
	if !ok {
		return "", "", false
	}
	stem = stem[:max(0, strings.LastIndexByte(stem, '.'))] // ".src" or ".nosrc"
	release := strings.LastIndexByte(stem, '-')
	if release <= 0 {
		return "", "", false
	}
	v := strings.LastIndexByte(stem[:release], '-')
	if v <= 0 {
		return "", "", false
	}
	return stem[:v], stem[v+1:], true
}
