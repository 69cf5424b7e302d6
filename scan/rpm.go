package scan

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	rpmdb "github.com/erikvarga/go-rpmdb/pkg"
	_ "modernc.org/sqlite" // the driver rpmdb reads rpmdb.sqlite with

	"github.com/tidewaiter/tidewaiter/gate"
)

// readRPM returns the packages of an rpm database in any of its three formats: sqlite, ndb, Berkeley DB. The library reads files
// only, so data is put into dir for the time. Scalibr's own reader is not used: it leaves the module stream out, without which
// the advisories of Red Hat's modules cannot be told apart. owns is told the vendor and the files of each package.
func readRPM(ctx context.Context, dir string, data []byte, owns func(vendor string, files []fileDigest)) (packages []gate.Package, err error) {
	name := filepath.Join(dir, "rpmdb")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		return nil, fmt.Errorf("writing a copy: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(name)) }()
	db, err := rpmdb.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }() // it was only read
	rows, err := db.ListPackagesWithContext(ctx)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(string(data[:min(len(data), len(sqliteMagic))]), sqliteMagic) {
		if err := checkCount(ctx, name, len(rows)); err != nil {
			return nil, err
		}
	}
	for _, row := range rows {
		if row.Name == "gpg-pubkey" { // a key rpm trusts, kept as if it were a package
			continue
		}
		packages = append(packages, rpmPackage(row))
		if names, err := row.InstalledFileNames(); err == nil { // else they are reported as if they were nobody's
			owns(row.Vendor, withDigests(names, row.FileDigests))
		}
	}
	return packages, nil
}

// withDigests returns files with their digests. The library leaves out the last of them where they are empty.
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

const sqliteMagic = "SQLite format 3\x00"

// checkCount compares the packages read with the rows there are. The library stops at the first page it cannot read, silently.
func checkCount(ctx context.Context, name string, read int) (err error) {
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var rows int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM Packages").Scan(&rows); err != nil {
		return fmt.Errorf("counting packages: %w", err)
	}
	if rows != read {
		return fmt.Errorf("%d of %d packages could be read", read, rows)
	}
	return nil
}

func rpmPackage(row *rpmdb.PackageInfo) gate.Package {
	epoch := ""
	if n := row.EpochNum(); n > 0 {
		epoch = fmt.Sprintf("%d:", n)
	}
	p := gate.Package{
		Type: "rpm", Name: row.Name, Version: epoch + row.Version + "-" + row.Release, Arch: row.Arch, Modularity: row.Modularitylabel,
	}
	if row.License != "" {
		p.Licenses = []string{row.License}
	}
	if name, version, ok := splitSourceRPM(row.SourceRpm); ok {
		setSource(&p, name, epoch+version)
	}
	return p
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
