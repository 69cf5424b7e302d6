package policy

import (
	"fmt"

	"github.com/tidewaiter/tidewaiter/gate"
)

// LoadKey reads the one public key a file holds, by the same rules as the key files of an authority.
func LoadKey(name string) (gate.TrustedKey, error) {
	encoded, err := readBounded(name, maxKeyBytes)
	if err != nil {
		return gate.TrustedKey{}, err
	}
	key, err := parseKey(encoded)
	if err != nil {
		return gate.TrustedKey{}, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}
