//! The constant facts of an order: customer, lines and amounts. Amounts are whole cents.

use chrono::{DateTime, Utc};

use crate::data::seed;

/// Most lines of an order.
const LINES_MAX: usize = 4;

/// A rate is in millionths: 80 250 is 8.025 %.
const RATE_ONE: i64 = 1_000_000;

/// A buyer's name, e-mail address, street, city, postal code, state, country, currency, locale and tax rate
/// (millionths). Some names and places are not ASCII.
pub(crate) struct Buyer {
    pub(crate) name: &'static str,
    pub(crate) email: &'static str,
    pub(crate) street: &'static str,
    pub(crate) city: &'static str,
    pub(crate) postal_code: &'static str,
    pub(crate) state: &'static str,
    pub(crate) country: &'static str,
    pub(crate) currency: &'static str,
    pub(crate) locale: &'static str,
    pub(crate) tax_rate: i64,
}

macro_rules! buyers {
    ($($name:literal $email:literal $street:literal $city:literal $code:literal $state:literal $country:literal
       $currency:literal $locale:literal $rate:literal;)*) => {
        &[$(Buyer { name: $name, email: $email, street: $street, city: $city, postal_code: $code, state: $state,
                    country: $country, currency: $currency, locale: $locale, tax_rate: $rate }),*]
    };
}

const BUYERS: &[Buyer] = buyers![
    "Ada Fields" "ada@example.com" "12 Mill Lane" "Duluth" "55802" "MN" "US" "USD" "en_US" 80_250;
    "Marcus O'Neil" "m.oneil@example.org" "400 5th Ave, Apt \"7\"" "New York" "10018" "NY" "US" "USD" "en_US" 88_750;
    "Zoë Brandt" "zoe@example.net" "Königstraße 3" "Köln" "50667" "NW" "DE" "EUR" "de_DE" 190_000;
    "Łukasz Wójcik" "lukasz@example.org" "ul. Długa 18" "Gdańsk" "80-827" "" "PL" "EUR" "pl_PL" 230_000;
    "Priya Raman" "priya@example.com" "9 Harbour Road" "Bristol" "BS1 4RW" "" "GB" "GBP" "en_GB" 200_000;
    "Élodie Martin" "elodie@example.net" "5 rue de l'Église" "Lyon" "69005" "" "FR" "EUR" "fr_FR" 200_000;
    "山田 花子" "hanako@example.org" "中央区銀座 4-1" "東京" "104-0061" "" "JP" "USD" "ja_JP" 100_000;
    "Sam Tremblay" "sam@example.com" "77 Rue Saint-Paul" "Montréal" "H2Y 1Z5" "QC" "CA" "CAD" "fr_CA" 149_750;
    "Ingrid Dahl" "ingrid@example.net" "Storgata 1\nOppgang B" "Tromsø" "9008" "" "NO" "EUR" "nb_NO" 250_000;
    "Test \\ Tester" "null@example.com" "1 Any Road" "Minneapolis" "55401" "MN" "US" "USD" "en_US" 0;
];

/// A product: name, description, price in cents, and whether it is shipped.
pub(crate) struct Product {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) cents: i64,
    pub(crate) physical: bool,
}

const PRODUCTS: &[Product] = &[
    Product { name: "Lock gate", description: "Oak, hand-fitted", cents: 12_999, physical: true },
    Product { name: "Paddle key", description: "Forged steel", cents: 1_450, physical: true },
    Product { name: "Mooring rope", description: "12 mm, 20 m", cents: 2_705, physical: true },
    Product { name: "Chart <north>", description: "Printed & laminated", cents: 999, physical: true },
    Product { name: "Route planner", description: "One year, download", cents: 4_900, physical: false },
    Product { name: "Tide tables 📈", description: "E-book", cents: 1, physical: false },
];

/// One line of an order.
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) sku: String,
    pub(crate) product: &'static Product,
    pub(crate) quantity: u32,
    /// Price of the whole line, cents.
    pub(crate) amount: i64,
    /// Tax on the whole line, cents.
    pub(crate) tax: i64,
}

/// An order's constant facts.
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) created: DateTime<Utc>,
    pub(crate) live: bool,
    pub(crate) buyer: &'static Buyer,
    pub(crate) customer_id: String,
    pub(crate) lines: Vec<Line>,
    /// Cents, 0 for an order that is downloaded.
    pub(crate) shipping: i64,
    /// Tax on the shipping, cents.
    pub(crate) shipping_tax: i64,
    pub(crate) charge_id: String,
    pub(crate) source_id: String,
    pub(crate) session_id: String,
    pub(crate) checkout_id: String,
    pub(crate) shape: Shape,
}

/// The documented variations of the payload that this order has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// The older API version: `charges` directly under the order, `metadata` on its items.
    pub(crate) older: bool,
    /// `productDetails` has `physical` and metadata.
    pub(crate) expanded: bool,
    /// `stateTransitions` lists the latest state first: its order has no meaning.
    pub(crate) latest_first: bool,
    /// Times have a fraction of a second.
    pub(crate) fractions: bool,
}

impl Order {
    /// Draws an order's facts.
    pub(crate) fn draw(rng: &mut fastrand::Rng, id: String, live: bool, created: DateTime<Utc>) -> Self {
        let buyer = &BUYERS[rng.usize(..BUYERS.len())];
        let lines: Vec<Line> = (0..rng.usize(1..=LINES_MAX)).map(|_| Line::draw(rng, buyer.tax_rate)).collect();
        let shipping = if lines.iter().any(|line| line.product.physical) { rng.i64(300..=1_500) } else { 0 };
        let mut uuid = || seed::uuid(rng).to_string();
        let (charge_id, source_id, session_id, checkout_id) = (uuid(), uuid(), uuid(), uuid());
        Self {
            id,
            created,
            live,
            buyer,
            customer_id: format!("{:08}0336", rng.u32(10_000_000..=99_999_999)),
            shipping,
            shipping_tax: tax(shipping, buyer.tax_rate),
            lines,
            charge_id,
            source_id,
            session_id,
            checkout_id,
            shape: Shape {
                older: rng.u8(..100) < 10,
                expanded: rng.u8(..100) < 20,
                latest_first: rng.u8(..100) < 30,
                fractions: rng.u8(..100) < 15,
            },
        }
    }

    /// Total before tax, cents.
    pub(crate) fn subtotal(&self) -> i64 {
        self.lines.iter().map(|line| line.amount).sum::<i64>() + self.shipping
    }

    /// Total tax, cents.
    pub(crate) fn tax(&self) -> i64 {
        self.lines.iter().map(|line| line.tax).sum::<i64>() + self.shipping_tax
    }

    /// Total with tax, cents; never 0, since an order of 0 gets no invoice.
    pub(crate) fn total(&self) -> i64 {
        self.subtotal() + self.tax()
    }

    /// Whether something has to be shipped.
    pub(crate) fn is_physical(&self) -> bool {
        self.lines.iter().any(|line| line.product.physical)
    }
}

impl Line {
    fn draw(rng: &mut fastrand::Rng, tax_rate: i64) -> Self {
        let product = &PRODUCTS[rng.usize(..PRODUCTS.len())];
        let quantity = rng.u32(1..=3);
        let amount = product.cents * i64::from(quantity);
        Self {
            id: format!("{:08}0336", rng.u32(10_000_000..=99_999_999)),
            sku: seed::uuid(rng).to_string(),
            product,
            quantity,
            amount,
            tax: tax(amount, tax_rate),
        }
    }
}

/// Tax on an amount of cents, rounded half up.
fn tax(cents: i64, rate: i64) -> i64 {
    (cents * rate + RATE_ONE / 2) / RATE_ONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tax_is_rounded_half_up() {
        assert_eq!(tax(2_000, 80_250), 161);
        assert_eq!(tax(1, 190_000), 0);
        assert_eq!(tax(5, 100_000), 1);
    }

    #[test]
    fn totals_add_up_and_are_never_0() {
        for seed in 0..500 {
            let mut rng = seed::rng(seed, 1);
            let order = Order::draw(&mut rng, "1".into(), false, DateTime::UNIX_EPOCH);
            assert!(order.total() > 0);
            assert_eq!(order.total(), order.subtotal() + order.tax());
        }
    }
}
