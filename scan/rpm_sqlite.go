package scan

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver
)

const sqliteMagic = "SQLite format 3\x00"

// isSQLite reports whether data begins as an SQLite database does.
func isSQLite(data []byte) bool {
	return strings.HasPrefix(string(data[:min(len(data), len(sqliteMagic))]), sqliteMagic)
}

// sqliteHeaders yields the header of each package of an SQLite database and what is wrong with it, if anything is. SQLite reads files only, so
// data is put into dir for the time. It cannot see that a row was deleted.
func sqliteHeaders(ctx context.Context, dir string, data []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if err := eachSQLite(ctx, dir, data, func(header []byte) bool { return yield(header, nil) }); err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

func eachSQLite(ctx context.Context, dir string, data []byte, visit func(header []byte) bool) (err error) {
	name := filepath.Join(dir, "rpmdb")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		return fmt.Errorf("writing a copy: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(name)) }()
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := checkSQLite(ctx, db); err != nil {
		return err
	}
	rows, err := db.QueryContext(ctx, "SELECT blob FROM Packages")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var header sql.RawBytes
		if err := rows.Scan(&header); err != nil {
			return err
		}
		if !visit(header) {
			return errStopped
		}
	}
	return rows.Err()
}

// checkSQLite returns an error unless every page of db is in order and belongs to something: a page that lost its rows would only make
// the answer shorter. Packages must be a table, or selecting from it would be running whatever program the database holds.
func checkSQLite(ctx context.Context, db *sql.DB) error {
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return fmt.Errorf("checking it: %w", err)
	}
	if verdict != "ok" {
		return fmt.Errorf("checking it: %s", verdict)
	}
	var page, computed int
	err := db.QueryRowContext(ctx, `SELECT rootpage, (SELECT count(*) FROM pragma_table_xinfo('Packages') WHERE hidden <> 0)
		FROM sqlite_master WHERE name = 'Packages' COLLATE NOCASE AND type IN ('table', 'view')`).Scan(&page, &computed)
	if err != nil {
		return fmt.Errorf("looking for the packages: %w", err)
	}
	if page == 0 || computed != 0 {
		return errors.New("the packages are not in a table")
	}
	return nil
}
