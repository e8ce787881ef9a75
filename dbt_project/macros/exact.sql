{#-
  Exact arithmetic on decimals. Spark rounds a product or quotient to its result type without an error, and with ANSI
  mode off (as in dbt-spark) an overflow is NULL. So ratios use long division of integers, which is exact, and every
  stored value goes through `fits`, which fails the statement on NULL.
-#}

{% macro fits(expression, type, name) -%}
  coalesce(cast({{ expression }} as {{ type }}), raise_error('{{ name }} is empty or does not fit {{ type }}'))
{%- endmacro %}

{% macro power_of_ten(exponent) -%}
  cast('1{{ '0' * exponent }}' as decimal({{ exponent + 1 }}, 0))
{%- endmacro %}

{% macro unscaled(value, scale) -%}
  {#- Return value * 10^scale as decimal(38,0), for a value >= 0 with `scale` decimals; NULL beyond 38 digits. -#}
  {%- set typed = 'cast(' ~ value ~ ' as decimal(38, ' ~ scale ~ '))' -%}
  (cast(floor({{ typed }}) as decimal({{ 38 - scale }}, 0)) * {{ power_of_ten(scale) }}
    + cast((({{ typed }}) % cast(1 as decimal(1, 0))) * {{ power_of_ten(scale) }} as decimal(38, 0)))
{%- endmacro %}

{% macro exact_ratio(numerator, numerator_scale, denominator, denominator_scale) -%}
  {#- Return numerator / denominator with 8 decimals, rounded half up, as decimal(18,8); numerator >= 0, denominator > 0.
      The scales are those of the values; NULL if a step overflows. Equals `cryptolake_assets.model.measures.ratio`.
      The one-element arrays name intermediate results, which would otherwise be computed many times. -#}
  transform(
    transform(
      array(named_struct(
        'top', {{ unscaled(numerator, numerator_scale) }} * {{ power_of_ten(8 + denominator_scale - numerator_scale) }},
        'bottom', {{ unscaled(denominator, denominator_scale) }})),
      v -> named_struct('top', v.top, 'bottom', v.bottom, 'rest', v.top % v.bottom)),
    v -> cast(
      cast(
        cast((v.top - v.rest) / v.bottom as decimal(38, 0))
        + case when v.rest >= v.bottom - v.rest then 1 else 0 end
      as decimal(18, 0)) * cast('0.00000001' as decimal(8, 8))
    as decimal(18, 8))
  )[0]
{%- endmacro %}

{% macro bucket_width(price) -%}
  {#- Return the unit of the price's third significant digit, at least 0.00000001: 100 for 64250.5, 0.001 for 0.345. -#}
  case
  {%- for exponent in range(9, -6, -1) %}
    when {{ price }} >= {{ decimal_power(exponent) }} then {{ decimal_power(exponent - 2) }}
  {%- endfor %}
    else {{ decimal_power(-8) }}
  end
{%- endmacro %}

{% macro decimal_power(exponent) -%}
  {%- set digits = '1' ~ '0' * exponent if exponent >= 0 else '0.' ~ '0' * (-exponent - 1) ~ '1' -%}
  cast('{{ digits }}' as decimal(18, 8))
{%- endmacro %}
