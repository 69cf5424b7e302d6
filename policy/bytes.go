package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteUnits are the units of sizes: powers of ten and, with an i, of two (IEC 80000-13).
var byteUnits = map[string]int64{
	"": 1, "B": 1,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// ParseBytes reads a size: "4GiB", "500MB", or a number of bytes.
func ParseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "BKMGTi")
	unit, ok := byteUnits[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	// The digits are written back and compared, since ParseInt takes a sign, and YAML an octal number for what begins with 0.
	if !ok || err != nil || n < 0 || digits != strconv.FormatInt(n, 10) {
		return 0, fmt.Errorf("%.40q is no size: want bytes, or a whole number with one of KB, MB, GB, TB, KiB, MiB, GiB, TiB", s)
	}
	if n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%.40q is more bytes than can be counted", s)
	}
	return n * unit, nil
}
